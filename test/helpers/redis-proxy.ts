import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Script } from '../../src/store/scripts.ts'

/**
 * What becomes of an answer that the server gave; what was asked has taken place.
 *
 * - `cut`: the connection ends instead.
 * - `lost`: nothing comes any more on this connection, and nobody is told.
 * - `late`: it comes after so many milliseconds, and everything after it as well.
 */
export type AnswerFault = 'cut' | 'lost' | { readonly lateMs: number }

// What may come before the answer that is meant: those to the pings of a poll, and that the script has to follow as text.
const NOT_YET = /^(\+PONG\r\n)*(-NOSCRIPT|$)/

/** Between an instance and its store: loses the answers to scripts, and connections that subscribe. */
export class RedisProxy {
  /** Answers that something has happened to. */
  struck = 0
  /** Whether a connection ends as soon as it subscribes to anything. */
  refusesSubscriptions = false
  /** Connections that have ended for it. */
  refused = 0
  readonly #targetPort: number
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer((socket) => this.#onConnection(socket))
  readonly #faults: { readonly sha: string; readonly fault: AnswerFault }[] = []

  private constructor(targetPort: number) {
    this.#targetPort = targetPort
  }

  static async start(t: Test, targetPort: number): Promise<RedisProxy> {
    const proxy = new RedisProxy(targetPort)
    t.teardown(() => proxy.#close())
    proxy.#server.listen(0, '127.0.0.1')
    await once(proxy.#server, 'listening')
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  /** Strikes the next answer to this script; a further call, the one after that. */
  strike({ sha }: Script, fault: AnswerFault): void {
    this.#faults.push({ sha, fault })
  }

  async #close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #onConnection(client: Socket): void {
    const server = connect(this.#targetPort, '127.0.0.1')
    for (const [one, other] of [
      [client, server],
      [server, client]
    ] as const) {
      this.#sockets.add(one)
      one.setNoDelay(true)
      one.on('error', () => {})
      one.on('close', () => {
        this.#sockets.delete(one)
        other.destroy()
      })
    }
    let fault: AnswerFault | undefined
    let isSilent = false
    let passes = Promise.resolve()
    client.on('data', (request: Buffer) => {
      if (this.refusesSubscriptions && /\r\nsubscribe\r\n/i.test(request.toString('latin1'))) {
        this.refused += 1
        client.destroy()
        return
      }
      fault ??= this.#faultOf(request)
      server.write(request)
    })
    server.on('data', (answer: Buffer) => {
      if (isSilent) return
      if (fault !== undefined && !NOT_YET.test(answer.toString('latin1'))) {
        this.struck += 1
        if (typeof fault === 'object') passes = late(passes, fault.lateMs)
        else isSilent = true
        if (fault === 'cut') client.destroy()
        fault = undefined
      }
      if (!isSilent) void passes.then(() => client.write(answer))
    })
  }

  #faultOf(request: Buffer): AnswerFault | undefined {
    const [next] = this.#faults
    if (next === undefined || !request.includes(next.sha)) return undefined
    this.#faults.shift()
    return next.fault
  }
}

async function late(passes: Promise<void>, ms: number): Promise<void> {
  await passes
  await delay(ms)
}
