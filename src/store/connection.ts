/** What a connection tells whoever made it. */
export interface ConnectionEvents {
  /** It was ready, and can no longer be used. At most once, and not after `close()`. */
  onLost(cause: Error): void
  onMessage(channel: string, message: Buffer): void
}

/**
 * One connection of ours to a Redis server or cluster. It lives once: it does not come back by itself, keeps nothing for
 * later and repeats nothing. Calls settle when the server answers or the connection ends, however long that takes.
 */
export interface Connection {
  /** Rejects where nobody answers, or with what the server said. */
  connect(): Promise<void>
  /** Sends one command where `key` lives. Bulk strings of the reply are Buffers. */
  send(key: string, command: readonly (string | Buffer)[]): Promise<unknown>
  subscribe(channel: string): Promise<void>
  unsubscribe(channel: string): Promise<void>
  ping(): Promise<void>
  /** Ends it at once, without a word to the server. */
  close(): void
}

/** Makes connections like that of a client that the user has; the client itself is not touched. */
export interface ConnectionMaker {
  commands(events: ConnectionEvents, timeoutMs: number): Connection
  /** For subscriptions only; in a cluster one node will do, and `commands` knows one. */
  subscriptions(events: ConnectionEvents, timeoutMs: number, commands: Connection): Connection
}

// An error reply begins with a code in capitals, by the protocol. Whatever else a client rejects with is its own.
const REPLY_CODE = /^[A-Z]{3,}(?= |$)/

/** The code of an error that a server replied with, such as `WRONGTYPE`; undefined where no server did. */
export function replyCode(error: unknown): string | undefined {
  return REPLY_CODE.exec(messageOf(error))?.[0]
}

export function messageOf(error: unknown): string {
  const message = typeof error === 'object' && error !== null && 'message' in error ? error.message : undefined
  return typeof message === 'string' && message !== '' ? message : String(error)
}

export function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(messageOf(reason))
}
