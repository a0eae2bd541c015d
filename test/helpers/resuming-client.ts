import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { numbersFrom } from './numbers.ts'
import { statusOf } from './resume-until-end.ts'
import { sendSse, type SseClient, type SseEvent } from './sse-client.ts'

// Shorter than a server asks for: a test is in a hurry, and nothing may depend on it.
const PAUSE_MS = 20

/**
 * A client that follows a stream as an `EventSource` does: whenever it loses its connection it comes back with the last id,
 * each time to the instance that `nextPort` names, until it is told that there is nothing more to come.
 */
export class ResumingClient {
  /** Ports that it went to. */
  readonly visits: number[] = []
  /** Whether a response ended cleanly before it was told that it has everything. */
  wasMisled = false
  /** Status of its last answer; undefined where nobody answered. */
  status: number | undefined
  hasEnd = false
  readonly #t: Test
  readonly #path: string
  readonly #nextPort: () => number
  readonly #earlier: SseEvent[] = []
  #lastEventId: string | undefined
  #client: SseClient | undefined
  #isOver = false

  constructor(t: Test, nextPort: () => number, path: string, lastEventId?: string) {
    this.#t = t
    this.#path = path
    this.#nextPort = nextPort
    this.#lastEventId = lastEventId
    t.teardown(() => this.leave())
    void this.#follow()
  }

  /** Everything that it was told, in order, over all its connections. */
  get events(): SseEvent[] {
    return [...this.#earlier, ...(this.#client?.events ?? [])]
  }

  /** Data of the events of the generator, without what a test padded them with. */
  get data(): string[] {
    return this.events.filter(({ event }) => !event?.startsWith('stream-')).map(({ data }) => data.trimEnd())
  }

  /** Names of the control events; `stream-start` aside. */
  get told(): string[] {
    return this.events.flatMap(({ event }) => (event?.startsWith('stream-') && event !== 'stream-start' ? [event] : []))
  }

  get lastEventId(): string | undefined {
    return this.#client?.lastEventId ?? this.#lastEventId
  }

  async waitForData(count: number): Promise<string[]> {
    await eventually(`${count} events, ${this.data.length} are there`, () => this.data.length >= count)
    return this.data
  }

  async waitForEnd(): Promise<void> {
    await eventually('the end of the stream', () => this.hasEnd)
  }

  /** Loses its connection, and comes back. */
  async cut(): Promise<void> {
    await this.#client?.drop()
  }

  /** Leaves for good. */
  async leave(): Promise<void> {
    this.#isOver = true
    await this.#client?.drop()
  }

  /** Reads no more until `resume()`; only of this connection. */
  pause(): void {
    this.#client?.pause()
  }

  resume(): void {
    this.#client?.resume()
  }

  async #follow(): Promise<void> {
    while (!this.#isOver && !this.hasEnd) {
      const port = this.#nextPort()
      this.visits.push(port)
      const client = sendSse(this.#t, port, this.#path, { lastEventId: this.#lastEventId })
      this.#client = client
      const end = await client.waitForEnd()
      await client.drop()
      const isOver = client.events.at(-1)?.event === 'stream-end'
      this.status = statusOf(client)
      if (end === 'end' && !isOver && this.status === 200) this.wasMisled = true
      this.#lastEventId = client.lastEventId
      this.#earlier.push(...client.events)
      this.#client = undefined
      this.hasEnd = isOver || this.status === 204
      await delay(PAUSE_MS)
    }
  }
}

/** It got every number once, in order, and was told that the stream has completed, and nothing else. */
export function assertWhole(t: Test, client: ResumingClient, count: number): void {
  t.equal(client.data.join(), numbersFrom(1, count).join())
  t.same(client.told, ['stream-end'])
  t.equal(client.events.at(-1)?.data, '{"outcome":"completed"}')
  t.notOk(client.wasMisled)
}

/** The same, and it never had to come back. */
export function assertUndisturbed(t: Test, client: ResumingClient, count: number): void {
  assertWhole(t, client, count)
  t.equal(client.visits.length, 1, 'it was not sent away')
}
