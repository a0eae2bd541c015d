import { replyCode } from './connection.ts'
import type { Place } from './address.ts'
import type { Argument } from './run-script.ts'

/** One append: which stream, and the arguments of the script. */
interface Waiting {
  readonly place: Place
  readonly args: readonly Argument[]
  readonly resolve: (answer: unknown) => void
  readonly reject: (reason: unknown) => void
}

// A server does nothing else while a script runs: this is about a millisecond.
const MAX_STREAMS = 64
const MAX_BYTES = 64 * 1024

/**
 * Sends what several streams append in one tick as one command: at the speed of tokens every stream has its events one by
 * one, and a command costs more than an event. Each append is answered by itself, as if it had been sent alone.
 */
export class Appends {
  readonly #send: (places: readonly Place[], args: readonly Argument[]) => Promise<unknown>
  #waiting: Waiting[] = []
  #bytes = 0
  // A cluster takes the keys of one slot only, and says so.
  #isOneByOne = false

  constructor(send: (places: readonly Place[], args: readonly Argument[]) => Promise<unknown>) {
    this.#send = send
  }

  /** Resolves with the answer of the script, or rejects with what the server said to this append. */
  add(place: Place, args: readonly Argument[], bytes: number): Promise<unknown> {
    if (this.#isOneByOne) return this.#send([place], args)
    if (this.#bytes + bytes > MAX_BYTES || this.#waiting.length === MAX_STREAMS) this.#flush()
    return new Promise((resolve, reject) => {
      if (this.#waiting.length === 0) process.nextTick(this.#flush)
      this.#waiting.push({ place, args, resolve, reject })
      this.#bytes += bytes
    })
  }

  readonly #flush = (): void => {
    const appends = this.#waiting
    if (appends.length === 0) return
    this.#waiting = []
    this.#bytes = 0
    if (appends.length === 1) this.#sendOneByOne(appends)
    else void this.#sendTogether(appends)
  }

  async #sendTogether(appends: readonly Waiting[]): Promise<void> {
    const places = appends.map(({ place }) => place)
    const args = appends.flatMap((append) => append.args)
    try {
      const answers = await this.#send(places, args)
      for (const [index, { resolve }] of appends.entries()) resolve(Array.isArray(answers) ? answers[index] : answers)
    } catch (error) {
      const code = replyCode(error)
      this.#isOneByOne ||= code === 'CROSSSLOT'
      // What was refused is the matter of one of them. Those before it are written, and find so when they come again.
      if (code !== undefined) this.#sendOneByOne(appends)
      else for (const { reject } of appends) reject(error)
    }
  }

  #sendOneByOne(appends: readonly Waiting[]): void {
    for (const { place, args, resolve, reject } of appends) this.#send([place], args).then(resolve, reject)
  }
}
