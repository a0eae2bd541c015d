import { MARK, SEQUENCE_DIGITS } from './source.ts'

const VALUE = new RegExp(`${MARK}(\\d{${SEQUENCE_DIGITS}})`, 'g')

/** What one client received: HTTP/1.1 answers, read after the turn. */
export class Transcript {
  #pieces: Buffer[] = []
  /** Where the bytes that are not yet decoded stand. */
  #state: 'head' | 'chunks' | 'sized' = 'head'
  /** Of a body that named its length. */
  #size = 0

  add(piece: Buffer): void {
    this.#pieces.push(Buffer.from(piece))
  }

  /** @throws unless the answers since the last check carry the sequences 0 … `events` - 1, each once and in order */
  check(events: number): void {
    const text = this.decode()
    let expected = 0
    for (const [, digits] of text.matchAll(VALUE)) {
      if (Number(digits) !== expected) throw new Error(`event ${expected} was due, ${Number(digits)} came`)
      expected++
    }
    if (expected !== events) throw new Error(`the first client received ${expected} of ${events} events`)
  }

  /** The bodies received since the last call, without heads and chunk framing. An unfinished chunk stays for the next. */
  decode(): string {
    const bytes = Buffer.concat(this.#pieces)
    const bodies: Buffer[] = []
    let at = 0
    for (;;) {
      const next = this.#next(bytes, at, bodies)
      if (next === undefined) break
      at = next
    }
    this.#pieces = [Buffer.from(bytes.subarray(at))]
    return Buffer.concat(bodies).toString()
  }

  /** Where the next piece begins, unless this one is not complete. */
  #next(bytes: Buffer, at: number, bodies: Buffer[]): number | undefined {
    if (this.#state === 'head') return this.#head(bytes, at)
    return this.#state === 'chunks' ? this.#chunk(bytes, at, bodies) : this.#sized(bytes, at, bodies)
  }

  #head(bytes: Buffer, at: number): number | undefined {
    const end = bytes.indexOf('\r\n\r\n', at)
    if (end === -1) return undefined
    const head = bytes.toString('latin1', at, end)
    if (!head.startsWith('HTTP/1.1 200 OK\r\n')) throw new Error(`answered ${head.slice(0, 200)}`)
    const [, length] = /\r\ncontent-length: (\d+)/i.exec(head) ?? []
    if (length === undefined && !/\r\ntransfer-encoding: chunked/i.test(head)) throw new Error(`no end: ${head}`)
    this.#state = length === undefined ? 'chunks' : 'sized'
    this.#size = Number(length)
    return end + 4
  }

  #sized(bytes: Buffer, at: number, bodies: Buffer[]): number | undefined {
    const end = at + this.#size
    if (bytes.length < end) return undefined
    bodies.push(bytes.subarray(at, end))
    this.#state = 'head'
    return end
  }

  #chunk(bytes: Buffer, at: number, bodies: Buffer[]): number | undefined {
    const line = bytes.indexOf('\r\n', at)
    if (line === -1) return undefined
    const digits = bytes.toString('latin1', at, line)
    if (!/^[0-9a-f]+$/i.test(digits)) throw new Error(`${JSON.stringify(digits.slice(0, 40))} is no chunk size`)
    const size = Number.parseInt(digits, 16)
    const end = line + 2 + size
    if (bytes.length < end + 2) return undefined
    if (bytes.toString('latin1', end, end + 2) !== '\r\n') throw new Error('a chunk does not end where its size says')
    bodies.push(bytes.subarray(line + 2, end))
    if (size === 0) this.#state = 'head'
    return end + 2
  }
}
