import { connect, type Socket } from 'node:net'
import { Transcript } from './transcript.ts'
import { MARK, SEQUENCE_DIGITS, STAMP_DIGITS } from './source.ts'

const MARK_BYTE = MARK.charCodeAt(0)
const CONNECTING_AT_ONCE = 100
const PATIENCE_MS = 30_000
/** The end of a chunked body. */
const LAST_CHUNK = '0\r\n\r\n'

/** What one answer of a client is asked for. */
export interface Request {
  readonly path: string
  readonly lastEventId?: string | undefined
}

interface Waiting {
  readonly isOver: () => boolean
  readonly resolve: () => void
}

/**
 * Clients on raw sockets. The hot loop counts marks, bytes and reads; the bytes of the first client are kept and parsed
 * when the turn is over, so that a contestant that loses, repeats or mangles events is found out.
 */
export class Load {
  readonly #port: number
  readonly #sockets: (Socket | undefined)[] = []
  /** One buffer for all sockets: each read is over before the next begins. */
  readonly #buffer = Buffer.allocUnsafe(65_536)
  readonly #tails: string[] = []
  readonly #heard: boolean[] = []
  /** Bytes to come of an answer that named its length; `NaN` where chunks end it. */
  readonly #left: number[] = []
  readonly #counts: Int32Array
  #waiting: Waiting | undefined
  #heads = 0
  #lostConnections = 0
  #isClosing = false
  /** Keep the first client's bytes. */
  #transcript: Transcript | undefined
  /** Events, bytes, reads and ended answers of all clients. */
  events = 0
  bytes = 0
  reads = 0
  ends = 0
  /** Called for every answer that ends. */
  onEnd: ((client: number) => void) | undefined
  /** Microseconds from yield to receive, where values carry the time. */
  latencies: number[] | undefined

  private constructor(port: number, clients: number) {
    this.#port = port
    this.#counts = new Int32Array(clients)
    for (let client = 0; client < clients; client++) {
      this.#tails.push('')
      this.#heard.push(false)
      this.#left.push(Number.NaN)
    }
  }

  static async open(port: number, clients: number): Promise<Load> {
    const load = new Load(port, clients)
    for (let first = 0; first < clients; first += CONNECTING_AT_ONCE) {
      const last = Math.min(first + CONNECTING_AT_ONCE, clients)
      await Promise.all(Array.from({ length: last - first }, (_, index) => load.#connect(first + index)))
    }
    return load
  }

  get clients(): number {
    return this.#counts.length
  }

  /** Asks on every connection; resolves when each has the first bytes of its answer, if `waitForHead`. */
  async request(request: Request, waitForHead = true): Promise<void> {
    this.#heads = 0
    for (let client = 0; client < this.clients; client++) {
      if (this.#sockets[client] === undefined) await this.#connect(client)
      this.ask(client, request)
      // A listen backlog of requests is not what is measured.
      if (client % CONNECTING_AT_ONCE === CONNECTING_AT_ONCE - 1) await new Promise((resolve) => setImmediate(resolve))
    }
    if (waitForHead) await this.#until(() => this.#heads === this.clients)
  }

  ask(client: number, { path, lastEventId }: Request): void {
    const cursor = lastEventId === undefined ? '' : `last-event-id: ${lastEventId}\r\n`
    this.#tails[client] = ''
    this.#heard[client] = false
    this.#sockets[client]?.write(
      `GET ${path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n${cursor}\r\n`
    )
  }

  /** Connects a client that lost or never had its connection. */
  async ensure(client: number): Promise<void> {
    if (this.#sockets[client] === undefined) await this.#connect(client)
  }

  /** Begins a turn: counts from zero. */
  begin(): void {
    this.#counts.fill(0)
    this.events = this.bytes = this.reads = this.ends = 0
    this.#lostConnections = 0
  }

  /** Keeps what the first client receives from here on. */
  record(transcript: Transcript = new Transcript()): void {
    this.#transcript = transcript
  }

  /** Every client has received so many events. */
  async received(eventsPerClient: number): Promise<void> {
    const total = eventsPerClient * this.clients
    await this.#until(() => this.events >= total)
    const wrong = this.#counts.findIndex((count) => count !== eventsPerClient)
    if (wrong !== -1) throw new Error(`client ${wrong} received ${this.#counts[wrong]} of ${eventsPerClient} events`)
  }

  /** One client has received so many events. */
  receivedBy(client: number, events: number): Promise<void> {
    return this.#until(() => this.eventsOf(client) >= events)
  }

  /** So many answers have ended. */
  ended(answers: number): Promise<void> {
    return this.#until(() => this.ends >= answers)
  }

  /** @throws unless the first client received each event once and in order, in a well-formed answer */
  check(eventsPerClient: number): void {
    this.#transcript?.check(eventsPerClient)
  }

  /** Events of the client so far. */
  eventsOf(client: number): number {
    return this.#counts[client] ?? 0
  }

  pause(client: number): void {
    this.#sockets[client]?.pause()
  }

  /** Resets the connections: a close in order would leave ports waiting. */
  close(): void {
    this.#isClosing = true
    this.#waiting?.resolve()
    for (const socket of this.#sockets) socket?.resetAndDestroy()
  }

  async #connect(client: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const onread = { buffer: this.#buffer, callback: (bytes: number) => this.#onRead(client, bytes) }
      const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true, onread })
      socket.once('connect', resolve)
      socket.once('error', reject)
      socket.on('close', () => this.#onClose(client))
      this.#sockets[client] = socket
    })
  }

  #onRead(client: number, bytes: number): boolean {
    const chunk = this.#buffer.subarray(0, bytes)
    if (client === 0) this.#transcript?.add(chunk)
    this.bytes += bytes
    this.reads++
    if (!this.#heard[client]) {
      this.#heard[client] = true
      this.#heads++
      this.#left[client] = lengthOf(chunk)
    } else {
      this.#left[client] = (this.#left[client] ?? Number.NaN) - bytes
    }
    let events = 0
    for (let at = chunk.indexOf(MARK_BYTE); at !== -1; at = chunk.indexOf(MARK_BYTE, at + 1)) {
      events++
      if (this.latencies !== undefined) this.#time(chunk, at)
    }
    this.events += events
    this.#counts[client] = (this.#counts[client] ?? 0) + events
    const tail =
      bytes >= 5 ? chunk.toString('latin1', bytes - 5, bytes) : this.#tails[client] + chunk.toString('latin1', 0, bytes)
    this.#tails[client] = tail
    if (tail.endsWith(LAST_CHUNK) || this.#left[client] === 0) {
      this.ends++
      this.#left[client] = Number.NaN
      this.#tails[client] = ''
      this.onEnd?.(client)
    }
    this.#settle()
    return true
  }

  #time(chunk: Buffer, at: number): void {
    const digits = chunk.toString('latin1', at + SEQUENCE_DIGITS + 2, at + SEQUENCE_DIGITS + 2 + STAMP_DIGITS)
    // Cut by the end of the read: one sample less.
    if (digits.length === STAMP_DIGITS) this.latencies?.push(Number(process.hrtime.bigint() / 1000n) - Number(digits))
  }

  #onClose(client: number): void {
    this.#sockets[client] = undefined
    if (this.#isClosing) return
    this.#lostConnections++
  }

  #until(isOver: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = undefined
        const lost = this.#lostConnections
        reject(new Error(`waited in vain: ${this.events} events, ${this.ends} ends, ${lost} connections lost`))
      }, PATIENCE_MS)
      const settle = (): void => {
        clearTimeout(timer)
        resolve()
      }
      this.#waiting = { isOver, resolve: settle }
      this.#settle()
    })
  }

  #settle(): void {
    if (this.#waiting === undefined || !this.#waiting.isOver()) return
    const { resolve } = this.#waiting
    this.#waiting = undefined
    resolve()
  }
}

/** What is still to come of an answer that begins like this and names its length. */
function lengthOf(answer: Buffer): number {
  const end = answer.indexOf('\r\n\r\n')
  const [, length] = /\r\ncontent-length: (\d+)/i.exec(answer.toString('latin1', 0, Math.max(0, end))) ?? []
  return length === undefined ? Number.NaN : Number(length) - (answer.length - end - 4)
}
