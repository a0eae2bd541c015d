import { EventEmitter, once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Test } from 'tap'

/** A connection that asks for a stream and reads as much of it as a test wants, byte by byte if need be. */
export class RawReader {
  bytes = 0
  readonly socket: Socket
  readonly #events = new EventEmitter<{ first: [] }>()
  // Bytes that it may still take before it stops reading.
  #allowance: number

  private constructor(t: Test, port: number, path: string, allowance: number, bufferBytes: number) {
    this.#allowance = allowance
    this.socket = connect({
      port,
      host: '127.0.0.1',
      // The size of one read of the kernel: `pause()` alone would take 64 KiB at once.
      onread: { buffer: new Uint8Array(bufferBytes), callback: (length) => this.#onRead(length) }
    })
    this.socket.on('error', () => {})
    t.teardown(() => this.socket.destroy())
    this.socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n`)
  }

  /** Resolves when the first bytes have come; it reads no further than `allowance` bytes. */
  static async open(t: Test, port: number, path: string, allowance: number, bufferBytes = 1_024): Promise<RawReader> {
    const reader = new RawReader(t, port, path, allowance, bufferBytes)
    await once(reader.#events, 'first')
    return reader
  }

  /** Reads so many bytes more. */
  allow(bytes: number): void {
    this.#allowance += bytes
    if (this.#allowance > 0) this.socket.resume()
  }

  #onRead(length: number): boolean {
    if (this.bytes === 0) this.#events.emit('first')
    this.bytes += length
    this.#allowance -= length
    return this.#allowance > 0
  }
}
