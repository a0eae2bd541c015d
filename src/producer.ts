import { AsyncResource } from 'node:async_hooks'
import { setMaxListeners } from 'node:events'
import { describeError, HandlerInvalidError, inspectValue } from './errors.ts'
import type { Task, Turn } from './turn.ts'

/** What a generator is made by: called once, in the async context of the request that starts the stream. */
export type Start = (signal: AbortSignal) => unknown

/** Where a producer brings what it gets. */
export interface ProducerSink {
  /** Makes a frame of a yielded value; throws what is to be thrown into the generator. */
  encode(value: unknown): Frame
  /** Takes a frame, or says that there is no room yet: then `Producer.resume()` is called once there may be. */
  tryAppend(frame: Frame): boolean
  onDone(): void
  onFailed(error: unknown): void
  /** The generator threw while it was being closed; it is too late to tell a client. */
  onCloseFailed(error: unknown): void
  /** The generator has stopped, or was let go, and nothing of it is held any more. Called once, after all others. */
  onReleased(): void
}

/** One event as it will stand in the log. */
export interface Frame {
  readonly text: string
  /** Length of `text` as UTF-8. */
  readonly bytes: number
}

/** What `Iterator` and `AsyncIterator` have in common, as far as strangers keep to it. */
interface AnyIterator {
  next(): unknown
  return?: () => unknown
  throw?: (error: unknown) => unknown
}

const PENDING = Symbol('pending')

/**
 * Drives one iterator under one signal.
 *
 * It never races promises: a step that comes back after the producer was released finds it empty and is dropped. So a
 * generator that is stuck in an `await` holds this object and nothing else.
 */
export class Producer implements Task {
  readonly #turn: Turn
  #sink: ProducerSink | undefined
  #controller: AbortController | undefined = new AbortController()
  // Every step runs in here, whoever triggers it: a client that drains, a timer, the end of a turn.
  #context: AsyncResource | undefined = new AsyncResource('fastify-resumable-sse:producer')
  // What the handler returned, from its call until it is pulled.
  #returned: { readonly iterable: unknown } | undefined
  #isPulled = false
  #iterator: AnyIterator | undefined
  #isSync = false
  // Encoded, waiting for room.
  #frame: Frame | undefined
  // To be thrown into the generator in place of the next pull.
  #injected: { readonly error: unknown } | undefined
  // True while code of the generator is on the stack: it cannot be closed from in there.
  #isInStep = false
  // From here on steps are discarded and `return()` has the last word.
  #isClosing = false

  constructor(sink: ProducerSink, turn: Turn) {
    this.#sink = sink
    this.#turn = turn
  }

  /** Whether a frame waits for room. */
  get isWaiting(): boolean {
    return this.#frame !== undefined
  }

  /** Whether nothing of the generator is held any more. */
  get isReleased(): boolean {
    return this.#sink === undefined
  }

  /** Calls the handler. Rethrows what it throws synchronously; nothing was started then. */
  call(start: Start): void {
    const { signal } = this.#controller as AbortController
    // Generators commonly add a listener per iteration; Node would warn at the eleventh.
    setMaxListeners(0, signal)
    this.#returned = { iterable: start(signal) }
  }

  /** Pulls what the handler returned, from the next microtask on: by then, whoever started the stream is attached. */
  pull(): void {
    Promise.resolve(this.#returned?.iterable).then((iterable) => this.#onIterable(iterable), this.#onFailed)
    this.#returned = undefined
    this.#isPulled = true
  }

  /** Goes on after `tryAppend` said that there is no room. */
  resume(): void {
    const frame = this.#frame
    if (frame === undefined || this.#sink?.tryAppend(frame) !== true) return
    this.#frame = undefined
    this.#turn.pullLater(this)
  }

  run(): void {
    this.#context?.runInAsyncScope(() => this.#drive(true))
  }

  /** Aborts the signal and closes the generator. `onReleased` follows, at once or when the generator has closed. */
  abort(reason: DOMException): void {
    if (this.#isClosing || this.#sink === undefined) return
    this.#isClosing = true
    this.#frame = undefined
    this.#abortSignal(reason)
    if (this.#isInStep) return
    // What was never pulled has to be closed all the same; without a call there is nothing to close.
    if (this.#iterator !== undefined) this.#close()
    else if (this.#returned !== undefined) this.pull()
    else if (!this.#isPulled) this.release()
  }

  /** Lets go of the generator, whatever it is doing. Idempotent. */
  release(): void {
    this.#drop()?.onReleased()
  }

  #drop(): ProducerSink | undefined {
    const sink = this.#sink
    this.#sink = undefined
    this.#controller = undefined
    this.#context = undefined
    this.#returned = undefined
    this.#iterator = undefined
    this.#frame = undefined
    this.#injected = undefined
    return sink
  }

  #onIterable(iterable: unknown): void {
    if (this.#sink === undefined) return closeUnused(iterable)
    try {
      this.#iterator = iteratorOf(iterable)
      this.#isSync = (iterable as Partial<AsyncIterable<unknown>>)[Symbol.asyncIterator] === undefined
    } catch (error) {
      this.#onFailed(error)
      return
    }
    if (this.#isClosing) this.#close()
    else this.#drive()
  }

  // For every step, hence made once.
  #onStep = (step: unknown): void => {
    if (!this.#isClosing && this.#take(step)) this.#drive()
  }

  #onFailed = (error: unknown): void => {
    if (this.#isClosing) return this.#onClosingFailed(error)
    const sink = this.#drop()
    sink?.onFailed(error)
    sink?.onReleased()
  }

  // A pending step usually rejects with the reason of the abort. Where it was the handler's own promise, nothing is left
  // to close.
  #onClosingFailed(error: unknown): void {
    const isAnswer = error === this.#controller?.signal.reason || describeError(error).code === 'STREAM_ABORTED'
    if (!isAnswer) this.#sink?.onCloseFailed(error)
    if (this.#iterator === undefined) this.release()
  }

  // One round per step. Leaves when the next step is a promise, when there is no room, or when the turn is spent: whoever
  // has waited for its turn takes one step all the same, since replays may spend every turn.
  #drive(isItsTurn = false): void {
    for (let mayGoOn = isItsTurn; ; mayGoOn = false) {
      if (!mayGoOn && this.#turn.isSpent()) return this.#turn.pullLater(this)
      const step = this.#advance()
      if (step === PENDING || !this.#take(step)) return
    }
  }

  // The next step, or PENDING where it comes later or never.
  #advance(): unknown {
    const iterator = this.#iterator
    if (iterator === undefined || this.#isClosing) return PENDING
    const injected = this.#injected
    this.#injected = undefined
    this.#isInStep = true
    let step: unknown
    try {
      step = injected === undefined ? iterator.next() : iterator.throw?.(injected.error)
      if (isThenable(step)) {
        Promise.resolve(step).then(this.#onStep, this.#onFailed)
        step = PENDING
      }
    } catch (error) {
      this.#isInStep = false
      if (this.#isClosing) this.#close()
      this.#onFailed(error)
      return PENDING
    }
    this.#isInStep = false
    if (!this.#isClosing) return step
    this.#close()
    return PENDING
  }

  // Whether to pull on.
  #take(step: unknown): boolean {
    const sink = this.#sink
    if (sink === undefined) return false
    if (typeof step !== 'object' || step === null) {
      return this.#failAndClose(
        new TypeError(`The iterator returned ${inspectValue(step)} in place of { done, value }`)
      )
    }
    let frame: Frame | undefined
    try {
      const { done, value } = step as IteratorResult<unknown>
      if (done !== true) {
        if (this.#isSync && typeof value === 'object' && value !== null && hasMethod(value, 'then')) {
          return this.#await(value)
        }
        frame = sink.encode(value)
      }
    } catch (error) {
      return this.#inject(error)
    }
    if (frame === undefined) {
      this.#drop()
      sink.onDone()
      sink.onReleased()
      return false
    }
    if (this.#isClosing) return false
    if (sink.tryAppend(frame)) return true
    this.#frame = frame
    return false
  }

  // Like `for await`, which awaits what a synchronous iterable yields.
  #await(value: unknown): false {
    Promise.resolve(value).then(
      (settled) => this.#onStep({ done: false, value: settled }),
      (error: unknown) => {
        if (this.#isClosing) this.#onFailed(error)
        else this.#failAndClose(error)
      }
    )
    return false
  }

  // The generator may catch it at its `yield` and go on. One that cannot be told fails.
  #inject(error: unknown): boolean {
    if (this.#iterator === undefined || !hasMethod(this.#iterator, 'throw')) return this.#failAndClose(error)
    this.#injected = { error }
    return true
  }

  #failAndClose(error: unknown): false {
    this.#isClosing = true
    this.#sink?.onFailed(error)
    this.#abortSignal(new DOMException('The stream failed', { name: 'AbortError', cause: error }))
    this.#close()
    return false
  }

  #abortSignal(reason: unknown): void {
    this.#context?.runInAsyncScope(() => this.#controller?.abort(reason))
  }

  #close(): void {
    const iterator = this.#iterator
    // The handler's promise is pending; what it brings is closed when it comes.
    if (iterator === undefined) return
    try {
      if (typeof iterator.return !== 'function') return this.release()
      const closing = this.#context?.runInAsyncScope(iterator.return, iterator)
      // What the generator yields from its `finally` comes too late.
      Promise.resolve(closing).then(
        () => this.release(),
        (error: unknown) => this.#onCloseFailed(error)
      )
    } catch (error) {
      this.#onCloseFailed(error)
    }
  }

  #onCloseFailed(error: unknown): void {
    this.#sink?.onCloseFailed(error)
    this.release()
  }
}

function isThenable(value: unknown): boolean {
  return typeof value === 'object' && value !== null && typeof (value as PromiseLike<unknown>).then === 'function'
}

// Users yield proxies, and iterators have getters: what throws when it is looked at has no such method.
function hasMethod(value: object, name: string): boolean {
  try {
    return typeof (value as Record<string, unknown>)[name] === 'function'
  } catch {
    return false
  }
}

// Comes after everybody has let go; a cursor or a connection that it stands for must not stay open.
function closeUnused(iterable: unknown): void {
  try {
    Promise.resolve(iteratorOf(iterable).return?.()).catch(() => {})
  } catch {
    // There is nothing to close, or nobody to tell.
  }
}

/** @throws FST_ERR_RSSE_HANDLER_INVALID */
function iteratorOf(iterable: unknown): AnyIterator {
  const candidate = Object(iterable) as Partial<AsyncIterable<unknown> & Iterable<unknown>>
  const iterator = candidate[Symbol.asyncIterator]?.() ?? candidate[Symbol.iterator]?.()
  if (typeof iterator !== 'object' || iterator === null) throw new HandlerInvalidError(inspectValue(iterable))
  return iterator as AnyIterator
}
