import type { Socket } from 'node:net'
import type { FastifyReply } from 'fastify'

/** The open responses of the demo: so that one can be cut, and so that the page can say when the last one left. */
export class Connections {
  readonly #open = new Map<FastifyReply, { readonly streamId: string; readonly tab: string; readonly socket: Socket }>()
  readonly #lastLeftAt = new Map<string, number>()

  track(reply: FastifyReply, streamId: string, tab: string): void {
    this.#open.set(reply, { streamId, tab, socket: reply.request.raw.socket })
    reply.raw.once('close', () => {
      this.#open.delete(reply)
      this.#lastLeftAt.set(streamId, Date.now())
    })
  }

  /** Destroys the sockets that serve this stream to this tab, as a lost network would. Returns how many there were. */
  cut(streamId: string, tab: string): number {
    const sockets = [...this.#open.values()].filter((open) => open.streamId === streamId && open.tab === tab)
    for (const { socket } of sockets) socket.destroy()
    return sockets.length
  }

  lastLeftAt(streamId: string): number | undefined {
    return this.#lastLeftAt.get(streamId)
  }

  /** Forgets the streams that the registry has removed. */
  keepOnly(streamIds: ReadonlySet<string>): void {
    for (const streamId of this.#lastLeftAt.keys()) if (!streamIds.has(streamId)) this.#lastLeftAt.delete(streamId)
  }
}
