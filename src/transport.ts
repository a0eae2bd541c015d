import { ServerResponse } from 'node:http'
import { constants, type Http2ServerResponse } from 'node:http2'
import { Socket } from 'node:net'
import type { Clock } from './clock.ts'
import type { LogSlice } from './event-log.ts'
import { HEARTBEAT } from './frame.ts'

/** The raw response of a Fastify reply. */
export type RawResponse = ServerResponse | Http2ServerResponse

/** Where the bytes of one response go. Nothing is written after `end`, `truncate` or `destroy`. */
export interface Transport {
  /** Bytes that were handed over and not taken yet. */
  readonly waitingBytes: number
  /** The most bytes that a slice should have. */
  readonly maxSliceBytes: number
  /** Whether nobody can receive anything any more. */
  readonly isDestroyed: boolean
  /** What is written up to `flush()`, or up to the end of the response, goes out together. */
  hold(): void
  flush(): void
  /** `false`: enough for now, `onDrain` is called when there is room. */
  write(text: string): boolean
  writeSlice(slice: LogSlice): boolean
  /** Ends the response cleanly after `text`: the client has everything. */
  end(text: string): void
  /** Lets what was written reach the client, then ends so that the client knows that it is not over. */
  truncate(): void
  /** Ends at once, so that the client knows that it is not over. */
  destroy(): void
  /** Forgets `onDrain`. */
  close(): void
}

export function isHttp2(response: RawResponse): response is Http2ServerResponse {
  return 'stream' in response
}

/** Writes to the raw response; on HTTP/1.1, past it, to its socket. */
export class ResponseTransport implements Transport {
  readonly maxSliceBytes: number
  readonly #response: RawResponse
  readonly #onDrain: () => void
  readonly #clock: Clock
  // Where the response has trailers: they follow, and the end is not ours.
  readonly #endWithTrailers: (() => void) | undefined
  // The socket, once it is proved that the response adds nothing but chunk framing to what is written to it.
  #direct: Socket | undefined
  #drainSource: RawResponse | Socket | undefined
  #held: Socket | undefined

  constructor(response: RawResponse, onDrain: () => void, clock: Clock, endWithTrailers?: () => void) {
    this.#response = response
    this.#onDrain = onDrain
    this.#clock = clock
    this.#endWithTrailers = endWithTrailers
    // The bytes that an HTTP/2 stream has taken are only known write by write, and its window is 64 KiB: with larger
    // slices a slow client would look like one that takes nothing.
    this.maxSliceBytes = isHttp2(response) ? 16_384 : 65_536
  }

  get waitingBytes(): number {
    return this.#response.writableLength
  }

  get isDestroyed(): boolean {
    return isGone(this.#response)
  }

  hold(): void {
    if (this.#held !== undefined || isHttp2(this.#response) || this.#response.socket === null) return
    this.#held = this.#response.socket
    this.#held.cork()
  }

  flush(): void {
    this.#held?.uncork()
    this.#held = undefined
  }

  write(text: string): boolean {
    const socket = this.#findDirect()
    if (socket === undefined) return this.#writeToResponse(text)
    return this.#awaitDrain(socket, socket.write(text === HEARTBEAT ? HEARTBEAT_CHUNK : toChunk(text)))
  }

  writeSlice(slice: LogSlice): boolean {
    const socket = this.#findDirect()
    return socket === undefined
      ? this.#writeToResponse(slice.bytes)
      : this.#awaitDrain(socket, writeChunk(socket, slice))
  }

  #findDirect(): Socket | undefined {
    if (this.#direct !== undefined || this.isDestroyed) return this.#direct
    // Sent on its own, since a response keeps its head for as long as it lives, and as the tree of strings that it was put
    // together from if it was sent with the first chunk (1 KB per idle client).
    if (!isHttp2(this.#response) && !this.#response.headersSent) this.#response.flushHeaders()
    this.#direct = directSocketOf(this.#response)
    return this.#direct
  }

  // A socket drops what comes after its end; a response makes an error of it.
  #writeToResponse(data: string | Buffer): boolean {
    if (this.isDestroyed) return false
    return this.#awaitDrain(this.#response, (this.#response as ServerResponse).write(data))
  }

  // Only what was refused a write says `drain`, so that is what has to be listened to.
  #awaitDrain(target: RawResponse | Socket, hasRoom: boolean): boolean {
    if (hasRoom) return true
    if (this.#drainSource === target) return false
    this.#forgetDrain()
    this.#drainSource = target
    target.on('drain', this.#onDrain)
    return false
  }

  #forgetDrain(): void {
    this.#drainSource?.removeListener('drain', this.#onDrain)
    this.#drainSource = undefined
  }

  end(text: string): void {
    this.#forgetDrain()
    this.hold()
    if (this.#endWithTrailers !== undefined) {
      this.write(text)
      this.#endWithTrailers()
    } else this.#endResponse(text)
    this.flush()
  }

  #endResponse(text: string): void {
    const response = this.#response as ServerResponse
    const socket = this.#findDirect()
    // An empty chunk would be the last one.
    if (socket !== undefined && text !== '') {
      socket.write(toChunk(text))
      response.end()
    } else if (!this.isDestroyed) response.end(text)
  }

  truncate(): void {
    this.close()
    truncateResponse(this.#response, this.#clock)
  }

  destroy(): void {
    this.close()
    destroyResponse(this.#response)
  }

  close(): void {
    this.#forgetDrain()
    this.flush()
  }
}

/** Whether nobody can receive anything any more. `close` may have been emitted already; it does not come again. */
export function isGone(response: RawResponse): boolean {
  return isHttp2(response) ? response.stream === undefined || response.stream.destroyed : response.destroyed
}

// The head is out, chunked encoding is in force, it is this response's turn on a real connection, nothing is
// queued in the response itself, and nobody has put a `write` of his own in its place: from here on a chunk that we frame
// is, byte for byte, what the response would write.
function directSocketOf(response: RawResponse): Socket | undefined {
  if (isHttp2(response) || !response.headersSent || !response.chunkedEncoding) return undefined
  if (response.write !== ServerResponse.prototype.write) return undefined
  const { socket } = response
  if (!(socket instanceof Socket) || response.writableLength !== socket.writableLength) return undefined
  return response.writableCorked === socket.writableCorked ? socket : undefined
}

// A copy is dear for one client and cheap for many: the first that wants a large slice writes the framing around it.
function writeChunk(socket: Socket, slice: LogSlice): boolean {
  if (slice.chunk === undefined && slice.bytes.length > MAX_COPIED_BYTES && !slice.isShared) {
    slice.isShared = true
    socket.cork()
    socket.write(`${slice.bytes.length.toString(16)}\r\n`, 'latin1')
    socket.write(slice.bytes)
    const hasRoom = socket.write('\r\n', 'latin1')
    socket.uncork()
    return hasRoom
  }
  slice.chunk ??= toChunk(slice.bytes)
  return socket.write(slice.chunk)
}

const MAX_COPIED_BYTES = 4_096

/** RFC 9112 § 7.1: size in hex, CRLF, data, CRLF. */
function toChunk(data: Buffer | string): Buffer {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data
  const size = bytes.length.toString(16)
  const chunk = Buffer.allocUnsafe(size.length + bytes.length + 4)
  let at = chunk.write(`${size}\r\n`, 'latin1')
  at += bytes.copy(chunk, at)
  chunk.write('\r\n', at, 'latin1')
  return chunk
}

/**
 * Ends a response so that every client sees that it is not over: HTTP/1.1 by closing before the last chunk, HTTP/2 by a
 * reset that Node clients do not take for a clean end, HTTP/1.0, where closing is the clean end, by resetting the
 * connection.
 */
export function truncateResponse(response: RawResponse, clock: Clock): void {
  if (isGone(response)) return
  if (isHttp2(response)) truncateHttp2Response(response)
  else if (!(response.socket instanceof Socket)) response.destroy()
  else if (response.chunkedEncoding) response.socket.destroySoon()
  else resetAfterFlush(response.socket, clock)
}

// A stream that is written to before its head goes out sends a bare 200 that ends cleanly, and with which an EventSource
// gives up for ever. So the head goes first, or not at all where Fastify has not filled it in.
function truncateHttp2Response(response: Http2ServerResponse): void {
  const { stream } = response
  const close = (): void => stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  if (!response.headersSent && response.hasHeader('content-type')) response.writeHead(response.statusCode)
  if (response.headersSent) stream.write('', close)
  else close()
}

// Data and reset in one wake-up reach a Node client as a clean end.
const RESET_DELAY_MS = 50

function resetAfterFlush(socket: Socket, clock: Clock): void {
  socket.write('', () => clock.setTimer(() => reset(socket), RESET_DELAY_MS))
}

function reset(socket: Socket): void {
  try {
    socket.resetAndDestroy()
  } catch {
    // Only a TCP handle can be reset, not TLS or a pipe.
    socket.destroy()
  }
}

/** Ends a response at once, and so that every client sees that it is not over. */
export function destroyResponse(response: RawResponse): void {
  if (isGone(response)) return
  if (isHttp2(response)) {
    response.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
    response.stream.destroy()
  } else if (response.headersSent && !response.chunkedEncoding && response.socket instanceof Socket)
    reset(response.socket)
  else response.destroy()
}

const HEARTBEAT_CHUNK = toChunk(HEARTBEAT)
