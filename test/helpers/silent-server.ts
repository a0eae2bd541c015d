import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/** Accepts, and never answers. */
export class SilentServer {
  accepted: number = 0
  readonly sockets: Set<Socket> = new Set()
  readonly #server = createServer((socket) => {
    this.accepted += 1
    this.sockets.add(socket)
    socket.resume()
    socket.on('error', () => {})
    socket.on('close', () => this.sockets.delete(socket))
  })

  static async start(t: Test): Promise<SilentServer> {
    const silent = new SilentServer()
    t.teardown(() => silent.#close())
    silent.#server.listen(0, '127.0.0.1')
    await once(silent.#server, 'listening')
    return silent
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  async #close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}
