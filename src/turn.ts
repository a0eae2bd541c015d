import { AsyncResource } from 'node:async_hooks'
import type { Clock } from './clock.ts'

/** Work that can be left to a later turn of the event loop. */
export interface Task {
  run(): void
}

/**
 * The work of one turn of the event loop, for all streams of a registry.
 *
 * What is appended in a turn is flushed once at its end, so that bursts coalesce into one write per client. And a turn is
 * bounded: once it is spent, whoever wants to go on waits in a queue, so that no generator and no replay starves timers,
 * other routes or `close()`.
 */
export class Turn {
  readonly #clock: Clock
  // Of the registration: whoever happens to open a turn must not lend it the async context of its request.
  readonly #context = new AsyncResource('fastify-resumable-sse:turn')
  // Every task is in here at most once: whoever queues it remembers that it did.
  #flushes: Task[] = []
  #waiting: Task[] = []
  #isOpen = false
  #startedAt = 0
  #steps = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The time at which this turn began. Saves reading the clock for every client of every event. */
  get now(): number {
    if (!this.#isOpen) this.#open()
    return this.#startedAt
  }

  /** Counts one step of work and tells whether the turn has had enough. */
  isSpent(): boolean {
    if (!this.#isOpen) this.#open()
    this.#steps += 1
    return this.#steps > MAX_STEPS || this.#clock.now() - this.#startedAt > MAX_TURN_MS
  }

  /** Runs `task` at the end of this turn. */
  atEnd(task: Task): void {
    if (!this.#isOpen) this.#open()
    this.#flushes.push(task)
  }

  /** Runs `task` in the next turn that has time for it, in the order of the calls. */
  later(task: Task): void {
    if (!this.#isOpen) this.#open()
    this.#waiting.push(task)
  }

  #open(): void {
    this.#isOpen = true
    this.#begin()
    this.#context.runInAsyncScope(setImmediate, undefined, this.#end)
  }

  #begin(): void {
    this.#startedAt = this.#clock.now()
    this.#steps = 0
  }

  #end = (): void => {
    this.#begin()
    const flushes = this.#flushes
    this.#flushes = []
    for (const task of flushes) task.run()
    if (this.#waiting.length > 0) this.#runWaiting()
    this.#isOpen = this.#flushes.length > 0 || this.#waiting.length > 0
    if (this.#isOpen) setImmediate(this.#end)
  }

  // Few at a time, so that each gets something done: thousands of generators that all run a little make thousands of
  // small writes. At least one, whatever the flushes took: nobody waits for ever.
  #runWaiting(): void {
    const waiting = this.#waiting
    const most = Math.min(waiting.length, MAX_TASKS)
    this.#waiting = []
    let done = 0
    do (waiting[done++] as Task).run()
    while (done < most && !this.isSpent())
    if (done < waiting.length) this.#waiting = waiting.slice(done).concat(this.#waiting)
  }
}

const MAX_TURN_MS = 5
// Under a clock that stands still, or a coarse one, time alone would not bound a turn.
const MAX_STEPS = 4_096
const MAX_TASKS = 64
