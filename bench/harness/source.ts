import { setTimeout as sleep } from 'node:timers/promises'

/** What the generators yield in one turn. All contestants get the same. */
export interface Plan {
  /** Values per generator. */
  readonly events: number
  /** Length of a value; all of it is ASCII. */
  readonly bytes: number
  /** Values yielded without waiting; `Infinity` is flat out: only the consumer's own back pressure slows it. */
  readonly perTick: number
  readonly intervalMs: number
  /** Each value carries the time at which it was yielded. */
  readonly isStamped?: boolean
}

/** First byte of every value and nowhere else on the wire, so that a client counts events without parsing. */
export const MARK = '~'

/** Digits of the sequence after the mark. */
export const SEQUENCE_DIGITS = 10

/** Digits of the time in microseconds after sequence and blank, on the clock that all processes of a machine share. */
export const STAMP_DIGITS = 15

/**
 * The async generators that every contestant consumes: they wait for a plan and then yield what it says.
 *
 * No `yield*` and no helper per value: what the generator itself costs is paid by every contestant alike, and the
 * smaller it is, the better the differences show.
 */
export class Source {
  #waiting: ((plan: Plan) => void)[] = []
  #standing: Plan | undefined

  /** Generators that wait for a plan. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** Starts every waiting generator. */
  run(plan: Plan): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const start of waiting) start(plan)
  }

  /** From now on no generator waits: each follows this plan. */
  stand(plan: Plan | undefined): void {
    this.#standing = plan
  }

  /** The endless feed of a broadcast: one plan after the other. */
  async *feed(): AsyncGenerator<string, void> {
    for (;;) {
      const { events, bytes, perTick, intervalMs, isStamped } = await this.#planned()
      const body = bodyOf(bytes, isStamped === true)
      for (let sequence = 0; sequence < events; sequence++) {
        if (sequence % perTick === 0) await sleep(intervalMs)
        yield valueOf(sequence, body, isStamped === true)
      }
    }
  }

  /** One answer, for one client: it ends with the plan. */
  async *tokens(): AsyncGenerator<string, void> {
    const phase = this.waiting
    const { events, bytes, perTick, intervalMs } = this.#standing ?? (await this.#planned())
    const body = bodyOf(bytes, false)
    // Otherwise all streams would yield in the same tick, which nobody's model does.
    if (perTick !== Infinity) await sleep(phase % intervalMs)
    for (let sequence = 0; sequence < events; sequence++) {
      if (perTick !== Infinity && sequence % perTick === 0) await sleep(intervalMs)
      yield valueOf(sequence, body, false)
    }
  }

  #planned(): Promise<Plan> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }
}

/** One value of the plan, outside any generator. */
export function valueOf(sequence: number, body: string, isStamped: boolean): string {
  const digits = String(sequence).padStart(SEQUENCE_DIGITS, '0')
  return isStamped ? `${MARK}${digits} ${stamp()} ${body}` : `${MARK}${digits} ${body}`
}

/** What follows the digits, so that the value has the length of the plan. */
export function bodyOf(bytes: number, isStamped: boolean): string {
  // Plain words: nothing that JSON would have to escape, which would be held against those who use it.
  const text = 'the quick brown fox jumps over the lazy dog and '
  const head = 1 + SEQUENCE_DIGITS + 1 + (isStamped ? STAMP_DIGITS + 1 : 0)
  return text.repeat(Math.ceil(bytes / text.length)).slice(0, Math.max(0, bytes - head))
}

function stamp(): string {
  return String(process.hrtime.bigint() / 1000n).padStart(STAMP_DIGITS, '0')
}
