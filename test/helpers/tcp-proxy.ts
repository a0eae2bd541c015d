import { EventEmitter } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/**
 * What becomes of a connection.
 *
 * - `cut`: both sides are closed.
 * - `reset`: both sides are reset.
 * - `half-close`: the receiver of the counted direction sees the end; the other direction and the sender stay.
 * - `stall`: nothing passes any more, in neither direction, and nobody is told. The server learns of it when the client
 *   closes.
 */
export type Fault = 'cut' | 'reset' | 'half-close' | 'stall'

export const FAULTS: readonly Fault[] = ['cut', 'reset', 'half-close', 'stall']

export interface Plan {
  readonly direction: 'request' | 'response'
  /** How many bytes of that direction still pass. */
  readonly after: number
  readonly fault: Fault
}

interface Connection {
  readonly client: Socket
  readonly server: Socket
  isStalled: boolean
}

/** A proxy between a client and a server on 127.0.0.1, which does what the internet does. One connection at a time. */
export class TcpProxy extends EventEmitter<{ stalled: [] }> {
  /** Holds for the next connection and is used up by it. */
  plan: Plan | undefined
  /** Of the last connection. */
  requestBytes = 0
  responseBytes = 0
  readonly #targetPort: number
  readonly #sockets = new Set<Socket>()
  readonly #server = createServer((socket) => this.#onConnection(socket))

  constructor(targetPort: number) {
    super()
    this.#targetPort = targetPort
  }

  static async start(t: Test, targetPort: number): Promise<TcpProxy> {
    const proxy = new TcpProxy(targetPort)
    t.teardown(() => proxy.#close())
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve))
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  async #close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #onConnection(client: Socket): void {
    const { plan } = this
    this.plan = undefined
    this.requestBytes = 0
    this.responseBytes = 0
    const server = connect({ port: this.#targetPort, host: '127.0.0.1', allowHalfOpen: true })
    this.#track(client, server)
    this.#track(server, client)
    const connection: Connection = { client, server, isStalled: false }
    this.#forward(connection, 'request', plan, (bytes) => (this.requestBytes += bytes))
    this.#forward(connection, 'response', plan, (bytes) => (this.responseBytes += bytes))
  }

  #track(socket: Socket, peer: Socket): void {
    this.#sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => peer.destroy())
    socket.on('close', () => {
      this.#sockets.delete(socket)
      peer.destroySoon()
    })
  }

  #forward(
    connection: Connection,
    direction: Plan['direction'],
    plan: Plan | undefined,
    count: (bytes: number) => void
  ): void {
    const [from, to] =
      direction === 'request' ? [connection.client, connection.server] : [connection.server, connection.client]
    const { after, fault } = plan?.direction === direction ? plan : { after: Infinity, fault: 'cut' as const }
    let left = after
    let isOver = false
    const act = (): void => {
      isOver = true
      this.#strike(fault, connection, from, to)
    }
    if (left === 0) {
      act()
      return
    }
    from.on('data', (data: Buffer) => {
      if (isOver || connection.isStalled) return
      const passed = data.subarray(0, left)
      left -= passed.length
      count(passed.length)
      to.write(passed)
      if (left === 0) act()
    })
    from.on('end', () => {
      if (isOver || connection.isStalled) to.destroySoon()
      else to.end()
    })
  }

  #strike(fault: Fault, connection: Connection, from: Socket, to: Socket): void {
    if (fault === 'half-close') {
      to.end()
      // The sender goes on, into the void.
      from.resume()
    } else if (fault === 'stall') {
      connection.isStalled = true
      connection.server.pause()
      connection.client.resume()
      // After what has passed so far.
      to.write('', () => this.emit('stalled'))
    } else if (fault === 'cut') {
      from.destroy()
      to.destroySoon()
    } else {
      // What was written has reached the kernel of this machine by then; what the receiver has not read by now is lost.
      to.write('', () => {
        from.resetAndDestroy()
        to.resetAndDestroy()
      })
    }
  }
}
