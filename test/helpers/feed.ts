import type { SseInput } from '../../src/frame.ts'
import { createDeferred, type Deferred } from './deferred.ts'

/** A handler whose generator yields what a test gives it, when it gives it. */
export class Feed {
  /** How often the handler was called. */
  runs = 0
  /** How many of its generators have run their `finally`. */
  closed = 0
  /** The signal of the last run. */
  signal: AbortSignal | undefined

  readonly #ignoresSignal: boolean
  readonly #values: SseInput[] = []
  #end: { readonly error: unknown } | 'completed' | undefined
  #wake: Deferred<void> = createDeferred()

  constructor({ ignoresSignal = false }: { ignoresSignal?: boolean } = {}) {
    this.#ignoresSignal = ignoresSignal
  }

  push(...values: SseInput[]): void {
    this.#values.push(...values)
    this.#wake.resolve()
  }

  /** The generator returns once everything was taken. */
  end(): void {
    this.#end = 'completed'
    this.#wake.resolve()
  }

  /** The generator throws once everything was taken. */
  fail(error: unknown): void {
    this.#end = { error }
    this.#wake.resolve()
  }

  readonly handler = (signal: AbortSignal): AsyncGenerator<SseInput> => {
    this.runs += 1
    this.signal = signal
    return this.#generate(signal)
  }

  async *#generate(signal: AbortSignal): AsyncGenerator<SseInput> {
    const onAbort = (): void => {
      // The generator may stand at a `yield` and never look at it again.
      this.#wake.promise.catch(() => {})
      this.#wake.reject(signal.reason)
    }
    if (!this.#ignoresSignal) signal.addEventListener('abort', onAbort)
    try {
      for (;;) {
        // It is left here when its stream does not want any more.
        for (let value = this.#values.shift(); value !== undefined; value = this.#values.shift()) yield value
        if (this.#end === 'completed') return
        if (this.#end !== undefined) throw this.#end.error
        await this.#wake.promise
        this.#wake = createDeferred()
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.closed += 1
    }
  }
}
