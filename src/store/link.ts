import type { Clock, Timer } from '../clock.ts'
import { Deadlines } from './deadlines.ts'
import { toError, replyCode, type Connection, type ConnectionEvents } from './connection.ts'

/** What a link needs of whoever uses it. */
export interface LinkOptions {
  readonly clock: Clock
  /** What a call, or the making of a connection, may take. */
  readonly timeoutMs: number
  /** Longest pause between two attempts to connect. */
  readonly maxPauseMs: number
  readonly make: (events: ConnectionEvents) => Connection | Promise<Connection>
  /** Makes a connection fit for use, before anybody else gets it. */
  readonly prepare: (connection: Connection) => Promise<void>
  readonly onMessage: (channel: string, message: Buffer) => void
  /** It is there, for the first time or again. */
  readonly onUp: () => void
  /** A connection was lost, or could not be made. */
  readonly onFailure: (error: Error) => void
}

const FIRST_PAUSE_MS = 20

/** One try at a connection, and what becomes of it. */
interface Attempt {
  connection: Connection | undefined
  upSince: number | undefined
}

/** Keeps one connection: one that is lost, or does not answer in time, is replaced. */
export class Link {
  readonly #options: LinkOptions
  readonly #deadlines: Deadlines
  #current: Attempt | undefined
  // What calls use: there, or being made. Undefined in a pause between two attempts, when calls fail at once.
  #connection: Promise<Connection> | undefined
  #pause: Timer | undefined
  #pauseMs = FIRST_PAUSE_MS

  constructor(options: LinkOptions) {
    this.#options = options
    this.#deadlines = new Deadlines(options.clock, options.timeoutMs)
  }

  /** Makes the first attempt, and rejects where it fails; it goes on by itself until `close()`. */
  open(): Promise<void> {
    return this.#attempt()
  }

  get connection(): Promise<Connection> {
    return this.#connection ?? Promise.reject(new Error('there is no connection'))
  }

  /** Uses the connection. Rejects after the time-out, in which case the connection is given up. */
  async call<T>(use: (connection: Connection) => Promise<T>): Promise<T> {
    let used: Attempt | undefined
    try {
      return await this.#deadlines.within(() => {
        const { connection, upSince } = this.#current ?? {}
        if (connection === undefined || upSince === undefined) {
          return this.connection.then((made) => {
            used = this.#current
            return use(made)
          })
        }
        used = this.#current
        return use(connection)
      })
    } catch (error) {
      // A server that says no is well; one that says nothing is not.
      if (used !== undefined && replyCode(error) === undefined) this.#lose(used, toError(error))
      throw error
    }
  }

  /** Gives up a connection that has been there for a while: another server may have taken over. */
  replace(cause: Error): void {
    if (this.#current !== undefined && this.#hasLasted(this.#current)) this.#lose(this.#current, cause)
  }

  close(): void {
    if (this.#pause !== undefined) this.#options.clock.clearTimer(this.#pause)
    this.#connection = undefined
    this.#current?.connection?.close()
    this.#current = undefined
    this.#deadlines.close()
  }

  async #attempt(): Promise<void> {
    const attempt: Attempt = { connection: undefined, upSince: undefined }
    this.#pause = undefined
    this.#current = attempt
    this.#connection = this.#deadlines.within(() => this.#connect(attempt))
    try {
      await this.#connection
    } catch (error) {
      this.#lose(attempt, toError(error))
      throw error
    }
    if (this.#current !== attempt) return
    attempt.upSince = this.#options.clock.now()
    this.#options.onUp()
  }

  async #connect(attempt: Attempt): Promise<Connection> {
    const { make, prepare, onMessage } = this.#options
    const connection = await make({ onLost: (cause) => this.#lose(attempt, cause), onMessage })
    // It may have taken too long by now.
    if (this.#current !== attempt) throw new Error('the connection is not wanted any more')
    attempt.connection = connection
    await connection.connect()
    await prepare(connection)
    return connection
  }

  #lose(attempt: Attempt, cause: Error): void {
    // Every call that was under way comes here.
    attempt.connection?.close()
    attempt.connection = undefined
    if (this.#current !== attempt) return
    this.#current = undefined
    this.#connection = undefined
    // After one that was well for a while the next follows at once.
    if (this.#hasLasted(attempt)) this.#pauseMs = FIRST_PAUSE_MS
    const { clock, maxPauseMs, onFailure } = this.#options
    this.#pause = clock.setTimer(() => void this.#attempt().catch(ignore), this.#pauseMs)
    this.#pauseMs = Math.min(2 * this.#pauseMs, maxPauseMs)
    onFailure(cause)
  }

  #hasLasted({ upSince }: Attempt): boolean {
    return upSince !== undefined && this.#options.clock.now() - upSince > this.#options.maxPauseMs
  }
}

// Whoever is told of it is told by `onFailure`.
function ignore(): void {}
