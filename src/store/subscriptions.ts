import type { Connection } from './connection.ts'
import type { Link } from './link.ts'

/** Takes a message; or `undefined` where messages come from now on, and any before may have been missed. */
export type MessageListener = (message: Buffer | undefined) => void

/** Who listens to which channel, and what of it the server knows. */
export class Subscriptions {
  readonly #link: Link
  readonly #listeners = new Map<string, Set<MessageListener>>()
  // Channels that the present connection was asked for, and those that it has confirmed.
  #asked = new Set<string>()
  #confirmed = new Set<string>()

  constructor(link: Link) {
    this.#link = link
  }

  listen(channel: string, listener: MessageListener): () => void {
    const listeners = this.#listeners.get(channel) ?? new Set()
    this.#listeners.set(channel, listeners.add(listener))
    if (this.#confirmed.has(channel)) queueMicrotask(() => listeners.has(listener) && listener(undefined))
    else void this.#ask(channel)
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return
      this.#listeners.delete(channel)
      if (this.#confirmed.has(channel)) void this.#giveUp(channel)
    }
  }

  onMessage(channel: string, message: Buffer): void {
    this.#tell(channel, message)
  }

  /** Subscribes a new connection to everything. */
  async renew(connection: Connection): Promise<void> {
    this.#asked = new Set(this.#listeners.keys())
    this.#confirmed = new Set()
    await Promise.all(Array.from(this.#asked, (channel) => this.#subscribe(connection, channel)))
  }

  /** Asks again for what the server refused, or was not there to be asked for. */
  repeat(): void {
    for (const channel of this.#listeners.keys()) void this.#ask(channel)
  }

  async #ask(channel: string): Promise<void> {
    const asked = this.#asked
    if (asked.has(channel)) return
    asked.add(channel)
    try {
      await this.#link.call((connection) => this.#subscribe(connection, channel))
    } catch {
      // The next round repeats it.
      asked.delete(channel)
    }
  }

  async #subscribe(connection: Connection, channel: string): Promise<void> {
    const confirmed = this.#confirmed
    await connection.subscribe(channel)
    // Both may have changed while the server was asked: the connection, and that somebody listens.
    if (confirmed !== this.#confirmed) return
    confirmed.add(channel)
    if (this.#listeners.has(channel)) this.#tell(channel, undefined)
    else await this.#giveUp(channel)
  }

  async #giveUp(channel: string): Promise<void> {
    this.#asked.delete(channel)
    this.#confirmed.delete(channel)
    try {
      await this.#link.call((connection) => connection.unsubscribe(channel))
    } catch {
      // A connection that is lost has no subscriptions, and a message that nobody waits for is dropped.
    }
  }

  #tell(channel: string, message: Buffer | undefined): void {
    for (const listener of this.#listeners.get(channel) ?? []) listener(message)
  }
}
