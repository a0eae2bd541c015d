import type { Connection } from './connection.ts'
import type { Link } from './link.ts'

/** Takes a message; or `undefined` where messages come from now on, and any before may have been missed. */
export type MessageListener = (message: Buffer | undefined) => void

/** Who listens to which channel, and what of it the server knows. */
export class Subscriptions {
  readonly #link: Link
  readonly #listeners = new Map<string, Set<MessageListener>>()
  // Channels that the present connection has, as far as the server has confirmed it.
  #confirmed = new Set<string>()
  // Channels of which the server is being told. One thing at a time: not every client keeps the order in its books.
  readonly #changing = new Set<string>()

  constructor(link: Link) {
    this.#link = link
  }

  listen(channel: string, listener: MessageListener): () => void {
    const listeners = this.#listeners.get(channel) ?? new Set()
    this.#listeners.set(channel, listeners.add(listener))
    if (this.#confirmed.has(channel)) queueMicrotask(() => listeners.has(listener) && listener(undefined))
    else void this.#settle(channel)
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return
      this.#listeners.delete(channel)
      void this.#settle(channel)
    }
  }

  onMessage(channel: string, message: Buffer): void {
    this.#tell(channel, message)
  }

  /** Subscribes a new connection to everything. */
  async renew(connection: Connection): Promise<void> {
    this.#confirmed = new Set()
    await Promise.all(Array.from(this.#listeners.keys(), (channel) => this.#change(connection, channel)))
  }

  /** Asks again for what the server refused, or was not there to be asked for. */
  repeat(): void {
    for (const channel of this.#listeners.keys()) void this.#settle(channel)
  }

  // What fails here is repeated by the next round, or by the next connection.
  async #settle(channel: string): Promise<void> {
    if (this.#changing.has(channel)) return
    this.#changing.add(channel)
    try {
      while (this.#listeners.has(channel) !== this.#confirmed.has(channel)) {
        await this.#link.call((connection) => this.#change(connection, channel))
      }
    } catch {
      // The link has told.
    } finally {
      this.#changing.delete(channel)
    }
  }

  async #change(connection: Connection, channel: string): Promise<void> {
    const confirmed = this.#confirmed
    if (confirmed.has(channel)) {
      if (this.#listeners.has(channel)) return
      confirmed.delete(channel)
      return connection.unsubscribe(channel)
    }
    if (!this.#listeners.has(channel)) return
    await connection.subscribe(channel)
    confirmed.add(channel)
    if (confirmed !== this.#confirmed) return
    if (this.#listeners.has(channel)) this.#tell(channel, undefined)
    // The last one who listened has gone meanwhile.
    else void this.#settle(channel)
  }

  #tell(channel: string, message: Buffer | undefined): void {
    for (const listener of this.#listeners.get(channel) ?? []) listener(message)
  }
}
