import type { EventStream } from './event-stream.ts'
import { StreamQueue } from './stream-queue.ts'

/** Which streams of a registry give way, and in what order. Every retained stream stands in exactly one queue. */
export class Capacity {
  // In order of their finish, with and without clients: a client attaches to a finished stream only for a replay, so
  // those with clients are few, and an order of finishing survives that clients come and go. Replicas stand here, too,
  // since they can be had again.
  readonly #finished = new StreamQueue<EventStream>()
  // Running without clients, the one that has been alone longest first.
  readonly #orphans = new StreamQueue<EventStream>()
  // Running with clients, the one whose clients changed longest ago first.
  readonly #attended = new StreamQueue<EventStream>()

  get finished(): number {
    return this.#finished.size
  }

  /** The memory that would come free if all finished streams gave way that can. */
  get finishedBytes(): number {
    let bytes = 0
    for (let stream = this.#finished.first; stream !== undefined; stream = stream.links.next) {
      if (!stream.isLoading) bytes += stream.log.heldBytes
    }
    return bytes
  }

  /** Files a stream after something about it changed: it started, finished, or a client came or left. */
  place(stream: EventStream): void {
    if (stream.isFinished || !stream.isHome) {
      if (stream.links.queue !== this.#finished) this.#finished.push(stream)
    } else if (stream.clients > 0) this.#attended.push(stream)
    else if (stream.links.queue !== this.#orphans) this.#orphans.push(stream)
  }

  forget(stream: EventStream): void {
    stream.links.queue?.remove(stream)
  }

  /**
   * The finished stream that gives way first, of those that may: the oldest finish without clients, else the oldest
   * finish.
   */
  nextFinished(mayGiveWay: (stream: EventStream) => boolean = () => true): EventStream | undefined {
    let withClients: EventStream | undefined
    for (let stream = this.#finished.first; stream !== undefined; stream = stream.links.next) {
      if (stream.isLoading || !mayGiveWay(stream)) continue
      if (stream.clients === 0) return stream
      withClients ??= stream
    }
    return withClients
  }

  /** The running stream that gives way first: longest without clients, else the least recently used. */
  nextRunning(): EventStream | undefined {
    return this.#orphans.first ?? this.#attended.first
  }
}
