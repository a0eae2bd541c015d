import type { Clock, Timer } from './clock.ts'
import { MAX_MILLISECONDS } from './frame.ts'

/** A response that wants to be looked at from time to time. */
export interface Watched {
  /** Looks at itself. Returns when it wants to be looked at next; `Infinity` is never. */
  onDue(now: number): number
  /** Its place in the heap, -1 outside. Belongs to the heartbeat. */
  heapIndex: number
  /** Belongs to the heartbeat. */
  dueAt: number
}

/**
 * One timer for all responses of a registry: heartbeats, stalls, and connections that grow old. What a round costs depends
 * on the responses that are due, not on all: they stand in a heap, the next one due at the top.
 */
export class Heartbeat {
  readonly #clock: Clock
  readonly #heap: Watched[] = []
  #timer: Timer | undefined
  #timerDueAt = Infinity

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get size(): number {
    return this.#heap.length
  }

  /** Looks at `watched` at `dueAt`, or earlier where it is due earlier already. */
  watch(watched: Watched, dueAt: number): void {
    if (watched.heapIndex === -1) {
      if (dueAt === Infinity) return
      watched.heapIndex = this.#heap.length
      watched.dueAt = dueAt
      this.#heap.push(watched)
      this.#siftUp(watched)
    } else if (dueAt < watched.dueAt) {
      watched.dueAt = dueAt
      this.#siftUp(watched)
    }
    this.#schedule()
  }

  /** Forgets `watched`. Idempotent. */
  unwatch(watched: Watched): void {
    const index = watched.heapIndex
    if (index === -1) return
    watched.heapIndex = -1
    const last = this.#heap.pop() as Watched
    if (last !== watched) {
      this.#place(last, index)
      this.#siftUp(last)
      this.#siftDown(last)
    }
    if (this.#heap.length === 0) this.#disarm()
  }

  // A timer that is too early finds nothing due and is set anew; only one that would be late is replaced at once.
  #schedule(): void {
    const dueAt = this.#heap[0]?.dueAt ?? Infinity
    if (dueAt >= this.#timerDueAt) return
    this.#disarm()
    if (dueAt === Infinity) return
    this.#timerDueAt = dueAt
    const delayMs = Math.min(MAX_MILLISECONDS, Math.max(1, Math.ceil(dueAt - this.#clock.now())))
    this.#timer = this.#clock.setTimer(this.#onTimer, delayMs)
  }

  #disarm(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer)
    this.#timer = undefined
    this.#timerDueAt = Infinity
  }

  #onTimer = (): void => {
    this.#timer = undefined
    this.#timerDueAt = Infinity
    const now = this.#clock.now()
    for (let next = this.#heap[0]; next !== undefined && next.dueAt <= now; next = this.#heap[0]) {
      const dueAt = next.onDue(now)
      if (next.heapIndex === -1) continue
      if (dueAt === Infinity) this.unwatch(next)
      else {
        // Later than now in any case, or this round would not end.
        next.dueAt = Math.max(dueAt, now + 1)
        this.#siftDown(next)
      }
    }
    this.#schedule()
  }

  #place(watched: Watched, index: number): void {
    this.#heap[index] = watched
    watched.heapIndex = index
  }

  #siftUp(watched: Watched): void {
    let index = watched.heapIndex
    while (index > 0) {
      const parentIndex = (index - 1) >>> 1
      const parent = this.#heap[parentIndex] as Watched
      if (parent.dueAt <= watched.dueAt) break
      this.#place(parent, index)
      index = parentIndex
    }
    this.#place(watched, index)
  }

  #siftDown(watched: Watched): void {
    let index = watched.heapIndex
    for (;;) {
      const child = this.#earlierChild(index)
      if (child === undefined || child.dueAt >= watched.dueAt) break
      const childIndex = child.heapIndex
      this.#place(child, index)
      index = childIndex
    }
    this.#place(watched, index)
  }

  #earlierChild(index: number): Watched | undefined {
    const left = this.#heap[2 * index + 1]
    const right = this.#heap[2 * index + 2]
    return right !== undefined && left !== undefined && right.dueAt < left.dueAt ? right : left
  }
}
