export interface ResponseHead {
  readonly httpVersion: string
  readonly status: number
  /** Lower-case names; the values of a repeated one are joined by `, `. */
  readonly headers: Readonly<Record<string, string | undefined>>
  /** As they came, repeated ones apart. */
  readonly rawHeaders: readonly (readonly [name: string, value: string])[]
}

export interface ResponseEvents {
  onHead(head: ResponseHead): void
  onBody(bytes: Buffer): void
  /** The body is complete. Never called for a truncated one. */
  onEnd(): void
}

// `until-close` is a body without a length (HTTP/1.0): the end of the connection is its end.
type State = 'head' | 'chunk-size' | 'chunk' | 'trailer' | 'sized' | 'until-close' | 'done'

/** Reads one HTTP/1.x response, byte by byte if need be, and knows whether its body is complete. */
export class Http1Response {
  readonly #events: ResponseEvents
  readonly #isHeadOnly: boolean
  #state: State = 'head'
  #pending: Buffer = Buffer.alloc(0)
  // Of the chunk, or of the body in the state `sized`.
  #remaining = 0

  constructor(events: ResponseEvents, isHeadOnly: boolean) {
    this.#events = events
    this.#isHeadOnly = isHeadOnly
  }

  get endsWithConnection(): boolean {
    return this.#state === 'until-close'
  }

  read(bytes: Buffer): void {
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes])
    while (this.#step());
  }

  #step(): boolean {
    switch (this.#state) {
      case 'head':
        return this.#readHead()
      case 'chunk-size':
        return this.#readChunkSize()
      case 'chunk':
      case 'sized':
        return this.#readSized()
      case 'trailer':
        return this.#readLine('\r\n') !== undefined && this.#end()
      case 'until-close':
        return this.#readBody(this.#pending.length)
      case 'done':
        return false
    }
  }

  #readHead(): boolean {
    const text = this.#readLine('\r\n\r\n')
    if (text === undefined) return false
    const [statusLine = '', ...lines] = text.split('\r\n')
    const [version = '', status] = statusLine.split(' ')
    const rawHeaders = lines.map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon), line.slice(colon + 1).trim()] as const
    })
    const headers: Record<string, string> = {}
    for (const [name, value] of rawHeaders) {
      const key = name.toLowerCase()
      headers[key] = key in headers ? `${headers[key]}, ${value}` : value
    }
    this.#events.onHead({ httpVersion: version.slice('HTTP/'.length), status: Number(status), headers, rawHeaders })
    return this.#readBodyOf(Number(status), headers)
  }

  #readBodyOf(status: number, headers: Readonly<Record<string, string>>): boolean {
    if (this.#isHeadOnly || status === 204 || status === 304) return this.#end()
    if (headers['transfer-encoding'] === 'chunked') {
      this.#state = 'chunk-size'
    } else if (headers['content-length'] === undefined) {
      this.#state = 'until-close'
    } else {
      this.#remaining = Number(headers['content-length'])
      if (this.#remaining === 0) return this.#end()
      this.#state = 'sized'
    }
    return true
  }

  #readChunkSize(): boolean {
    const line = this.#readLine('\r\n')
    if (line === undefined) return false
    const size = Number.parseInt(line, 16)
    this.#remaining = size + 2 // the line end of the chunk
    this.#state = size === 0 ? 'trailer' : 'chunk'
    return true
  }

  #readSized(): boolean {
    const lineEnd = this.#state === 'chunk' ? 2 : 0
    const size = Math.min(this.#pending.length, this.#remaining)
    if (size === 0) return false
    const bodySize = Math.min(size, this.#remaining - lineEnd)
    if (bodySize > 0) this.#readBody(bodySize)
    else this.#pending = this.#pending.subarray(size)
    this.#remaining -= bodySize > 0 ? bodySize : size
    if (this.#remaining > 0) return true
    if (this.#state === 'sized') return this.#end()
    this.#state = 'chunk-size'
    return true
  }

  #readBody(size: number): boolean {
    if (size === 0) return false
    const bytes = this.#pending.subarray(0, size)
    this.#pending = this.#pending.subarray(size)
    this.#events.onBody(bytes)
    return true
  }

  #readLine(terminator: string): string | undefined {
    const end = this.#pending.indexOf(terminator)
    if (end === -1) return undefined
    const line = this.#pending.toString('latin1', 0, end)
    this.#pending = this.#pending.subarray(end + terminator.length)
    return line
  }

  #end(): false {
    this.#state = 'done'
    this.#events.onEnd()
    return false
  }
}
