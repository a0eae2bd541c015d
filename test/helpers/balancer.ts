import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'

/** Takes connections to one server after the other, as a load balancer does that knows no sessions. */
export class Balancer {
  /** Of the servers that it knows; one that does not take a connection is passed over. */
  ports: readonly number[]
  readonly #sockets = new Set<Socket>()
  readonly #server: Server = createServer((client) => this.#pass(client, this.ports.length))
  #connections = 0

  private constructor(ports: readonly number[]) {
    this.ports = ports
  }

  static async start(t: Test, ports: readonly number[]): Promise<Balancer> {
    const balancer = new Balancer(ports)
    t.teardown(() => balancer.#close())
    // All clients of a server that dies come at once.
    await new Promise<void>((resolve) => balancer.#server.listen(0, '127.0.0.1', 4_096, resolve))
    return balancer
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  #pass(client: Socket, attempts: number): void {
    client.on('error', () => {})
    const port = this.ports[this.#connections++ % this.ports.length]
    if (port === undefined || attempts === 0) return void client.destroy()
    const server = connect(port, '127.0.0.1')
    const tryNext = (): void => this.#pass(client, attempts - 1)
    server.once('error', tryNext)
    server.once('connect', () => {
      server.off('error', tryNext).on('error', () => client.destroy())
      for (const [socket, peer] of [
        [client, server],
        [server, client]
      ] as const) {
        this.#sockets.add(socket)
        socket.pipe(peer)
        socket.once('close', () => {
          this.#sockets.delete(socket)
          peer.destroySoon()
        })
      }
    })
  }

  async #close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}
