/** The place of a stream in the one queue it stands in. Only the queue writes it. */
export interface QueueLinks<Stream> {
  queue: { remove(stream: Stream): void } | undefined
  previous: Stream | undefined
  next: Stream | undefined
}

/**
 * Streams in the order in which they give way: in at the back, out from anywhere in constant time. A `Set` would do but
 * for its front: after many removals it steps over all their holes to find its first element.
 */
export class StreamQueue<Stream extends { readonly links: QueueLinks<Stream> }> {
  #first: Stream | undefined
  #last: Stream | undefined
  #size = 0

  get first(): Stream | undefined {
    return this.#first
  }

  get size(): number {
    return this.#size
  }

  /** Moves `stream` to the back of this queue, out of the one it stands in. */
  push(stream: Stream): void {
    const { links } = stream
    links.queue?.remove(stream)
    links.queue = this
    links.previous = this.#last
    if (this.#last === undefined) this.#first = stream
    else this.#last.links.next = stream
    this.#last = stream
    this.#size += 1
  }

  /** Takes `stream` out; it must stand in this queue. */
  remove(stream: Stream): void {
    const { links } = stream
    if (links.previous === undefined) this.#first = links.next
    else links.previous.links.next = links.next
    if (links.next === undefined) this.#last = links.previous
    else links.next.links.previous = links.previous
    links.queue = undefined
    links.previous = undefined
    links.next = undefined
    this.#size -= 1
  }
}
