import { Readable } from 'node:stream'
import type { Clock } from './clock.ts'
import type { LogSlice } from './event-log.ts'
import {
  destroyResponse,
  isGone,
  ResponseTransport,
  truncateResponse,
  type RawResponse,
  type Transport
} from './transport.ts'

/** Who fills the body of a response. */
export interface BodySource {
  /** The body is wanted; its bytes go to `transport` from here on. */
  open(transport: Transport): void
  /** The transport has room again. */
  readonly onDrain: () => void
  /** Nobody wants the body any more. */
  readonly leave: () => void
}

/**
 * The payload that Fastify is given. It hands the raw response to the subscriber when it is piped there, and is an
 * ordinary readable for whatever stands in between, such as a compressor.
 */
export class ResponseBody extends Readable {
  readonly #response: RawResponse
  readonly #source: BodySource
  readonly #clock: Clock
  #pipe: PipeTransport | undefined
  #isDirect = false

  constructor(response: RawResponse, source: BodySource, clock: Clock) {
    super({ autoDestroy: false, emitClose: false })
    this.#response = response
    this.#source = source
    this.#clock = clock
  }

  override pipe<T extends NodeJS.WritableStream>(destination: T, options?: { end?: boolean | undefined }): T {
    // Whoever has begun to read, such as a hook that counts bytes, made an ordinary readable of it.
    const isRead = this.#pipe !== undefined || this.readableFlowing !== null
    if ((destination as unknown) !== this.#response || isRead) return super.pipe(destination, options)
    this.#isDirect = true
    // Whoever set it, it is not known; the response would end after so many bytes.
    this.#response.removeHeader('content-length')
    // With trailers Fastify ends the response itself, once the payload has ended.
    const hasTrailers = options?.end === false || this.#hasTrailersOfFastify57
    const endWithTrailers = hasTrailers ? (): void => void this.emit('end') : undefined
    this.#source.open(new ResponseTransport(this.#response, this.#source.onDrain, this.#clock, endWithTrailers))
    // From here on the response is ours. Fastify waits for the end of the payload, and would log every client that leaves
    // as an error and destroy a truncated response under its last bytes.
    if (endWithTrailers !== undefined) return destination
    this.emit('end')
    this.removeAllListeners()
    return destination
  }

  // It says so by no option of `pipe()`: beside the listener that every payload has, one waits for the end to send them.
  get #hasTrailersOfFastify57(): boolean {
    return this.#response.hasHeader('trailer') && this.listenerCount('end') > 1
  }

  override _read(): void {
    if (this.#isDirect) return
    if (this.#pipe !== undefined) return this.#pipe.onRead()
    const pipe = new PipeTransport(this, this.#response, this.#source.onDrain, this.#clock)
    this.#pipe = pipe
    // A hook that only listens makes it flow before Fastify has piped it to the client.
    setImmediate(() => {
      if (!this.destroyed) this.#source.open(pipe)
    })
  }

  // Pipes, iterators and the flow to a `data` listener take by this, too. `_read()` will not do to see what was taken: it
  // comes before the bytes are, and not at all while Node takes an earlier one for unanswered.
  override read(size?: number): unknown {
    const bytes: unknown = super.read(size)
    this.#pipe?.onTaken()
    return bytes
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#source.leave()
    callback(error)
  }
}

/** Writes to a body that somebody reads. */
class PipeTransport implements Transport {
  readonly maxSliceBytes: number = 65_536
  readonly #body: ResponseBody
  readonly #response: RawResponse
  readonly #onDrain: () => void
  readonly #clock: Clock
  #isFull = false
  // The response is cut as soon as the reader has what waits.
  #isTruncated = false

  constructor(body: ResponseBody, response: RawResponse, onDrain: () => void, clock: Clock) {
    this.#body = body
    this.#response = response
    this.#onDrain = onDrain
    this.#clock = clock
  }

  // What the reader holds cannot be seen; what it has passed on waits in the response.
  get waitingBytes(): number {
    return this.#body.readableLength + this.#response.writableLength
  }

  get isDestroyed(): boolean {
    return this.#body.destroyed || isGone(this.#response)
  }

  // The reader takes what it wants when it wants it.
  hold(): void {}
  flush(): void {}

  write(text: string): boolean {
    return this.#push(Buffer.from(text))
  }

  writeSlice(slice: LogSlice): boolean {
    return this.#push(slice.bytes)
  }

  #push(bytes: Buffer): boolean {
    this.#isFull = !this.#body.push(bytes)
    return !this.#isFull
  }

  /** The reader wants more. */
  onRead(): void {
    if (!this.#isFull) return
    this.#isFull = false
    this.#onDrain()
  }

  /** The reader may have taken bytes. It has yet to pass on what `read()` is about to return: hence the next turn. */
  onTaken(): void {
    if (!this.#isTruncated || this.#body.readableLength > 0) return
    this.#isTruncated = false
    setImmediate(() => this.#cut())
  }

  end(text: string): void {
    if (text !== '') this.#body.push(text)
    this.#body.push(null)
  }

  truncate(): void {
    if (this.#body.readableLength === 0) this.#cut()
    else this.#isTruncated = true
  }

  // The encoder in between must not end: that would be a clean end.
  #cut(): void {
    truncateResponse(this.#response, this.#clock)
  }

  destroy(): void {
    destroyResponse(this.#response)
  }

  close(): void {
    this.#isFull = false
  }
}
