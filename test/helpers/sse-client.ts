import type { EventEmitter } from 'node:events'
import { connect as connectHttp2, constants, type IncomingHttpHeaders, type IncomingHttpStatusHeader } from 'node:http2'
import { connect as connectSocket } from 'node:net'
import { StringDecoder } from 'node:string_decoder'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import type { Test } from 'tap'
import { Http1Response, type ResponseEvents, type ResponseHead } from './http1-response.ts'

export interface SseRequest {
  readonly method?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly lastEventId?: string | undefined
  /** Sent as JSON; the method is POST if nothing else is said. */
  readonly body?: unknown
  readonly protocol?: 'http/1.1' | 'http/1.0' | 'h2' | undefined
}

/** `end`: the response says itself that it is complete. `truncated`: anything else. */
export type ResponseEnd = 'end' | 'truncated'

/** An event as `eventsource-parser` read it. A message has no `event`. */
export type SseEvent = EventSourceMessage

interface Transport {
  pause(): void
  resume(): void
  /** Leaves without a word; resolves when nothing of the connection is left. */
  close(): Promise<void>
}

/** A test that waits this long for something waits for ever: say what is there instead of timing out in silence. */
const PATIENCE_MS = 30_000

/** The port at which whoever was at `port` comes back: where there are several instances, at another one. */
export type PortAfter = (port: number) => number

const samePort: PortAfter = (port) => port

/** Sends a request on a connection of its own, which is closed at the end of the test. */
export function sendSse(
  t: Test,
  port: number,
  path: string,
  request: SseRequest = {},
  portAfter: PortAfter = samePort
): SseClient {
  const client = new SseClient(t, port, path, request, portAfter)
  t.teardown(() => client.drop())
  return client
}

/** The same; resolves with the head of the response. */
export async function openSse(
  t: Test,
  port: number,
  path: string,
  request: SseRequest = {},
  portAfter: PortAfter = samePort
): Promise<SseClient> {
  const client = sendSse(t, port, path, request, portAfter)
  await client.waitForHead()
  return client
}

/** A client that shows everything: the head, each block as it arrives, and how the response ended. */
export class SseClient {
  /** All events so far, in order, control events included. */
  readonly events: SseEvent[] = []
  /** The values of all `retry:` lines so far. */
  readonly retries: number[] = []
  /** All comments so far; a heartbeat is an empty one. */
  readonly comments: string[] = []

  readonly #t: Test
  readonly #port: number
  readonly #path: string
  readonly #request: SseRequest
  readonly #portAfter: PortAfter
  readonly #transport: Transport
  readonly #decoder = new StringDecoder('utf8')
  readonly #chunks: Buffer[] = []
  readonly #waiting = new Set<() => void>()
  readonly #parser = createParser({
    onEvent: (event) => this.events.push(event),
    onRetry: (ms) => this.retries.push(ms),
    onComment: (comment) => this.comments.push(comment)
  })
  #head: ResponseHead | undefined
  #text = ''
  #end: ResponseEnd | undefined
  // How many of `events` next() has given away.
  #taken = 0

  constructor(t: Test, port: number, path: string, request: SseRequest, portAfter: PortAfter) {
    this.#t = t
    this.#port = port
    this.#path = path
    this.#request = request
    this.#portAfter = portAfter
    const events = {
      onHead: (head: ResponseHead) => this.#onHead(head),
      onBody: (bytes: Buffer) => this.#onBody(bytes),
      onEnd: () => this.#onEnd('end'),
      onClose: () => this.#onEnd('truncated')
    }
    this.#transport =
      request.protocol === 'h2' ? openHttp2(port, path, request, events) : openHttp1(port, path, request, events)
  }

  get head(): ResponseHead {
    if (this.#head === undefined) throw new Error('There is no head yet')
    return this.#head
  }

  get status(): number {
    return this.head.status
  }

  get headers(): ResponseHead['headers'] {
    return this.head.headers
  }

  /** The body as it is on the wire, without its transfer encoding. */
  get bytes(): Buffer {
    return Buffer.concat(this.#chunks)
  }

  get text(): string {
    return this.#text
  }

  /** The complete blocks so far, each without the empty line that ends it. */
  get blocks(): string[] {
    return this.#text.split('\n\n').slice(0, -1)
  }

  /** The events of the generator so far. */
  get userEvents(): SseEvent[] {
    return this.events.filter((event) => !event.event?.startsWith('stream-'))
  }

  /** The data of the events of the generator so far. */
  get data(): string[] {
    return this.userEvents.map((event) => event.data)
  }

  /** What a browser would send: the id of the last complete block that has one, or the one of the request. */
  get lastEventId(): string | undefined {
    const ids = this.blocks.flatMap((block) => /^id: ?(.*)$/m.exec(block)?.[1] ?? [])
    return ids.at(-1) ?? this.#request.lastEventId
  }

  /** The next event, control events included. */
  async next(): Promise<SseEvent> {
    await this.#until('an event', () => this.events.length > this.#taken || this.#end !== undefined)
    const event = this.events[this.#taken]
    if (event === undefined) throw new Error(`The response is over (${this.#end}): ${this.#summary()}`)
    this.#taken++
    return event
  }

  /** Reads on to the first event that is wanted, by its name or by what the predicate says. */
  async waitFor(wanted: string | ((event: SseEvent) => boolean)): Promise<SseEvent> {
    const isWanted = typeof wanted === 'string' ? (event: SseEvent) => event.event === wanted : wanted
    for (;;) {
      const event = await this.next()
      if (isWanted(event)) return event
    }
  }

  /** Resolves as soon as that many events of the generator are there. */
  async waitForData(count: number): Promise<string[]> {
    await this.waitUntil(`${count} events`, () => this.data.length >= count)
    return this.data
  }

  /** Resolves as soon as the condition holds; it is looked at whenever something arrives. */
  async waitUntil(what: string, condition: () => boolean): Promise<void> {
    await this.#until(what, () => condition() || this.#end !== undefined)
    if (!condition()) throw new Error(`The response is over (${this.#end}) without ${what}: ${this.#summary()}`)
  }

  async waitForHead(): Promise<ResponseHead> {
    await this.#until('the head', () => this.#head !== undefined || this.#end !== undefined)
    return this.head
  }

  async waitForEnd(): Promise<ResponseEnd> {
    await this.#until('the end', () => this.#end !== undefined)
    return this.#end as ResponseEnd
  }

  /** The whole body of an answer that is no stream. */
  async json(): Promise<Record<string, unknown>> {
    await this.waitForEnd()
    return JSON.parse(this.#text) as Record<string, unknown>
  }

  pause(): void {
    this.#transport.pause()
  }

  resume(): void {
    this.#transport.resume()
  }

  /** Loses the connection. */
  async drop(): Promise<void> {
    await this.#transport.close()
  }

  /** Drops the connection if there is one and comes back as a browser would, with the last event id. */
  async reconnect(request: SseRequest = {}): Promise<SseClient> {
    await this.drop()
    const again = { ...this.#request, lastEventId: this.lastEventId, ...request }
    return openSse(this.#t, this.#portAfter(this.#port), this.#path, again, this.#portAfter)
  }

  #onHead(head: ResponseHead): void {
    this.#head = head
    this.#wake()
  }

  #onBody(bytes: Buffer): void {
    const text = this.#decoder.write(bytes)
    this.#chunks.push(bytes)
    this.#text += text
    this.#parser.feed(text)
    this.#wake()
  }

  #onEnd(end: ResponseEnd): void {
    this.#end ??= end
    this.#wake()
  }

  #wake(): void {
    for (const check of this.#waiting) check()
  }

  async #until(what: string, condition: () => boolean): Promise<void> {
    if (condition()) return
    await new Promise<void>((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(check)
      }
      const timer = setTimeout(() => {
        settle()
        reject(new Error(`Waited for ${what} in vain: ${this.#summary()}`))
      }, PATIENCE_MS)
      const check = (): void => {
        if (!condition()) return
        settle()
        resolve()
      }
      this.#waiting.add(check)
    })
  }

  #summary(): string {
    const text = this.#text.length > 2_000 ? `…${this.#text.slice(-2_000)}` : this.#text
    return `status ${this.#head?.status}, ${this.events.length} events, body ends with ${JSON.stringify(text)}`
  }
}

interface TransportEvents extends ResponseEvents {
  onClose(): void
}

function requestHeaders(request: SseRequest): Record<string, string> {
  return {
    accept: 'text/event-stream',
    ...(request.lastEventId !== undefined && { 'last-event-id': request.lastEventId }),
    ...(request.body !== undefined && { 'content-type': 'application/json' }),
    ...request.headers
  }
}

function closeOf(emitter: EventEmitter): Promise<void> {
  return new Promise((resolve) => emitter.once('close', resolve))
}

function openHttp1(port: number, path: string, request: SseRequest, events: TransportEvents): Transport {
  const method = request.method ?? (request.body === undefined ? 'GET' : 'POST')
  const body = request.body === undefined ? '' : JSON.stringify(request.body)
  const headers = { host: `127.0.0.1:${port}`, ...requestHeaders(request) }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  if (body !== '') lines.push(`content-length: ${Buffer.byteLength(body)}\r\n`)
  const version = request.protocol === 'http/1.0' ? '1.0' : '1.1'

  const response = new Http1Response(events, method === 'HEAD')
  const socket = connectSocket(port, '127.0.0.1')
  socket.on('data', (bytes) => response.read(bytes))
  socket.on('end', () => {
    if (response.endsWithConnection) events.onEnd()
  })
  socket.on('error', () => {}) // a reset: `close` follows, and the body is truncated
  const closed = closeOf(socket)
  void closed.then(() => events.onClose())
  socket.write(`${method} ${path} HTTP/${version}\r\n${lines.join('')}\r\n${body}`)
  return {
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    close: () => {
      socket.destroy()
      return closed
    }
  }
}

function openHttp2(port: number, path: string, request: SseRequest, events: TransportEvents): Transport {
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  const method = request.method ?? (request.body === undefined ? 'GET' : 'POST')
  const stream = session.request({ ':method': method, ':path': path, ...requestHeaders(request) })
  stream.on('response', (headers) => events.onHead(http2Head(headers)))
  stream.on('data', (bytes: Buffer) => events.onBody(bytes))
  // The eye of a usual client: a reset is an error only with some codes, and `end` comes before that error.
  let isLost = false
  stream.on('error', () => (isLost = true))
  stream.on('close', () => (stream.readableEnded && !isLost ? events.onEnd() : events.onClose()))
  session.on('error', () => {})
  const closed = closeOf(session)
  stream.end(request.body === undefined ? undefined : JSON.stringify(request.body))
  return {
    pause: () => void stream.pause(),
    resume: () => void stream.resume(),
    close: () => {
      isLost = true
      stream.close(constants.NGHTTP2_CANCEL)
      session.destroy()
      return closed
    }
  }
}

function http2Head(received: IncomingHttpHeaders & IncomingHttpStatusHeader): ResponseHead {
  const rawHeaders = Object.entries(received).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [String(value)]).map((one) => [name, one] as const)
  )
  const headers: Record<string, string> = {}
  for (const [name, value] of rawHeaders) headers[name] = name in headers ? `${headers[name]}, ${value}` : value
  return { httpVersion: '2.0', status: Number(received[':status']), headers, rawHeaders }
}
