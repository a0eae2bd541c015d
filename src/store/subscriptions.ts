import type { Connection } from './connection.ts'
import type { Link } from './link.ts'

export type MessageListener = (message: Buffer) => void

/** Who listens to which channel, and that the server knows. */
export class Subscriptions {
  readonly #link: Link
  readonly #listeners = new Map<string, Set<MessageListener>>()
  // Channels that the server was asked for and has not confirmed: the only ones that anybody waits for.
  readonly #pending = new Map<string, Promise<void>>()
  // Channels that the present connection has.
  #confirmed = new Set<string>()

  constructor(link: Link) {
    this.#link = link
  }

  listen(channel: string, listener: MessageListener): () => void {
    const listeners = this.#listeners.get(channel) ?? new Set()
    this.#listeners.set(channel, listeners.add(listener))
    if (listeners.size === 1) this.#ask(channel)
    return () => {
      if (!listeners.delete(listener) || listeners.size > 0) return
      this.#listeners.delete(channel)
      this.#giveUp(channel)
    }
  }

  onMessage(channel: string, message: Buffer): void {
    for (const listener of this.#listeners.get(channel) ?? []) listener(message)
  }

  /** Resolves once the server delivers what is published there, or it is known that it does not. */
  async settled(channel: string): Promise<void> {
    await this.#pending.get(channel)
  }

  /** Subscribes to everything on a new connection. */
  async renew(connection: Connection): Promise<void> {
    this.#confirmed = new Set()
    await Promise.all(
      Array.from(this.#listeners.keys(), async (channel) => {
        await connection.subscribe(channel)
        this.#confirmed.add(channel)
      })
    )
  }

  /** Asks again for what the server refused, or was not there to be asked for. */
  repeat(): void {
    for (const channel of this.#listeners.keys()) {
      if (!this.#confirmed.has(channel) && !this.#pending.has(channel)) this.#ask(channel)
    }
  }

  #ask(channel: string): void {
    const asked = this.#subscribe(channel).finally(() => {
      if (this.#pending.get(channel) === asked) this.#pending.delete(channel)
    })
    this.#pending.set(channel, asked)
  }

  async #subscribe(channel: string): Promise<void> {
    try {
      await this.#link.call((connection) => connection.subscribe(channel))
    } catch {
      // The poll round repeats it.
      return
    }
    this.#confirmed.add(channel)
    if (!this.#listeners.has(channel)) this.#giveUp(channel)
  }

  #giveUp(channel: string): void {
    this.#pending.delete(channel)
    if (!this.#confirmed.delete(channel)) return
    this.#link.call((connection) => connection.unsubscribe(channel)).catch(() => {})
  }
}
