/** What fills a stream: the run of a generator, or a follower of one that runs on another instance. */
export interface Feeder {
  /** Whether a frame waits for room. */
  readonly isWaiting: boolean
  /** Whether nothing more comes, and nothing is held for it. */
  readonly isReleased: boolean
  begin(): void
  /** Clients have moved on: there may be room. */
  resume(): void
  /** The stream has finished; `line` says how. */
  finish(line: object): void
  abort(reason: DOMException): void
  /** Ends it without waiting any longer. Idempotent. */
  letGo(): void
}
