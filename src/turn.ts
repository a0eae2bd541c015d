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
  #waitingPulls: Task[] = []
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

  /**
   * The same for a task that pulls a generator. Few of them go on per turn: each does most of its work after `run()` has
   * returned, and thousands that all run a little make thousands of small writes.
   */
  pullLater(task: Task): void {
    if (!this.#isOpen) this.#open()
    this.#waitingPulls.push(task)
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
    const waiting = this.#waiting
    const waitingPulls = this.#waitingPulls
    this.#waiting = []
    this.#waitingPulls = []
    this.#waiting = this.#runSome(waiting, Infinity).concat(this.#waiting)
    this.#waitingPulls = this.#runSome(waitingPulls, MAX_PULLS).concat(this.#waitingPulls)
    this.#isOpen = this.#flushes.length + this.#waiting.length + this.#waitingPulls.length > 0
    if (this.#isOpen) setImmediate(this.#end)
  }

  // Returns the rest. At least one runs, whatever the turn has taken: nobody waits for ever.
  #runSome(tasks: Task[], most: number): Task[] {
    let done = 0
    while (done < Math.min(tasks.length, most) && (done === 0 || !this.isSpent())) (tasks[done++] as Task).run()
    return tasks.slice(done)
  }
}

const MAX_TURN_MS = 5
// Under a clock that stands still, or a coarse one, time alone would not bound a turn.
const MAX_STEPS = 4_096
const MAX_PULLS = 16
