import { request as ask, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http'
import { pipeline } from 'node:stream'

/** Where a request may go. */
export interface Target {
  readonly name: string
  /** Undefined while it cannot be reached. */
  readonly port: number | undefined
}

interface Visit {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /** Whose connection it is. */
  readonly tab: string
}

const PAUSE_MS = 100

/**
 * Sends each request to the instance whose turn it is, whatever it is about: no cookie and no address ties a client to an
 * instance. One that does not answer is passed over; where none does, the request waits. Stands for the load balancer
 * that you have.
 */
export class RoundRobinProxy<T extends Target> {
  readonly #targets: readonly T[]
  readonly #open = new Map<string, { readonly target: T; readonly response: ServerResponse }>()
  #turn = 0

  constructor(targets: readonly T[]) {
    this.#targets = targets
  }

  forward(visit: Visit): void {
    const turn = this.#turn++
    const inTurn = this.#targets.map((_target, index) => this.#targets[(turn + index) % this.#targets.length] as T)
    this.#try(visit, inTurn)
  }

  /** Who answers a tab now. */
  servedBy(tab: string): T | undefined {
    return this.#open.get(tab)?.target
  }

  /** Destroys the connection of a tab, as a lost network would. */
  cut(tab: string): void {
    this.#open.get(tab)?.response.socket?.destroy()
  }

  #try(visit: Visit, [target, ...others]: readonly T[]): void {
    if (target === undefined) return this.#tryLater(visit)
    if (target.port === undefined) return this.#try(visit, others)
    const { method, url, headers } = visit.request
    const options = {
      host: '127.0.0.1',
      port: target.port,
      method,
      path: url,
      headers: endToEnd(headers),
      agent: false
    }
    const upstream = ask(options)
    upstream.once('response', (answer) => {
      this.#pass(answer, visit, target)
    })
    // Whatever an instance had begun when it died, the other one finds it in the store.
    upstream.on('error', () => {
      if (!visit.response.headersSent && !visit.response.destroyed) this.#try(visit, others)
    })
    visit.response.once('close', () => upstream.destroy())
    upstream.end()
  }

  // A load balancer would answer 502, and an EventSource gives up for ever on that; the README shows what helps.
  #tryLater(visit: Visit): void {
    setTimeout(() => {
      if (!visit.response.destroyed) this.forward(visit)
    }, PAUSE_MS)
  }

  #pass(answer: IncomingMessage, { request, response, tab }: Visit, target: T): void {
    if (request.method === 'GET') {
      this.#open.set(tab, { target, response })
      response.once('close', () => {
        if (this.#open.get(tab)?.response === response) this.#open.delete(tab)
      })
    }
    response.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers))
    response.flushHeaders()
    // An answer that breaks off breaks off here too: it must not look like the end of the stream.
    pipeline(answer, response, () => {})
  }
}

// RFC 9110 § 7.6.1: these speak of one connection.
function endToEnd({ ...headers }: IncomingHttpHeaders): IncomingHttpHeaders {
  for (const name of ['connection', 'keep-alive', 'transfer-encoding']) delete headers[name]
  return headers
}
