import { monitorEventLoopDelay, performance, type IntervalHistogram } from 'node:perf_hooks'

/** What a server process spent between `begin` and `end`. */
export interface Reading {
  /** CPU time of all threads, user and system, in microseconds. */
  readonly cpu: number
  readonly wallMs: number
  readonly rssBytes: number
  /** Highest since the process began. */
  readonly peakRssBytes: number
  /** How late the event loop was; `NaN` if the turn was too short to tell. */
  readonly delayP99Ms: number
  readonly delayMaxMs: number
}

/** Measures its own process. */
export class Meter {
  #delay: IntervalHistogram | undefined
  #resolutionMs = 0
  #cpu = process.cpuUsage()
  #startedAt = 0

  begin(resolutionMs: number): void {
    this.#resolutionMs = resolutionMs
    this.#delay = monitorEventLoopDelay({ resolution: resolutionMs })
    this.#delay.enable()
    this.#startedAt = performance.now()
    this.#cpu = process.cpuUsage()
  }

  end(): Reading {
    const { user, system } = process.cpuUsage(this.#cpu)
    const wallMs = performance.now() - this.#startedAt
    this.#delay?.disable()
    return {
      cpu: user + system,
      wallMs,
      rssBytes: process.memoryUsage.rss(),
      peakRssBytes: process.resourceUsage().maxRSS * 1024,
      delayP99Ms: this.#late((delay) => delay.percentile(99)),
      delayMaxMs: this.#late((delay) => delay.max)
    }
  }

  /** The histogram holds whole intervals of its timer. */
  #late(read: (delay: IntervalHistogram) => number): number {
    if (this.#delay === undefined || this.#delay.count === 0) return Number.NaN
    return Math.max(0, read(this.#delay) / 1e6 - this.#resolutionMs)
  }
}

/** Memory that is really held. */
export interface Held {
  readonly heapBytes: number
  /** Memory outside the heap that objects of the heap hold: array buffers and the native parts of handles. */
  readonly externalBytes: number
  readonly rssBytes: number
}

/** Collects garbage first; the process runs with `--expose-gc`. */
export async function held(): Promise<Held> {
  for (let pass = 0; pass < 3; pass++) {
    globalThis.gc?.()
    // What finalizers release is gone in the next pass only.
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, external, rss } = process.memoryUsage()
  return { heapBytes: heapUsed, externalBytes: external, rssBytes: rss }
}
