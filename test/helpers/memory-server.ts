import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import type { StreamPluginOptions } from '../../src/index.ts'
import type { Sample } from '../fixtures/memory-server.ts'

const MAX_SAMPLES = 1_000

/** A server in a process of its own that tells what it holds. */
export class MemoryServer {
  readonly port: number
  /** Before the first request. */
  readonly baseline: Sample
  readonly #child: ChildProcess

  private constructor(child: ChildProcess, port: number, baseline: Sample) {
    this.#child = child
    this.port = port
    this.baseline = baseline
  }

  static async start(t: Test, plugin: StreamPluginOptions, http2 = false): Promise<MemoryServer> {
    const child = fork(new URL('../fixtures/memory-server.ts', import.meta.url), {
      execArgv: ['--expose-gc', '--import', import.meta.resolve('tsx')]
    })
    t.teardown(() => child.kill('SIGKILL'))
    child.send({ kind: 'start', plugin, http2 })
    const [{ port }] = (await once(child, 'message')) as [{ port: number }]
    child.send({ kind: 'sample' })
    const [baseline] = (await once(child, 'message')) as [Sample]
    return new MemoryServer(child, port, baseline)
  }

  async sample(): Promise<Sample> {
    this.#child.send({ kind: 'sample' })
    const [sample] = (await once(this.#child, 'message')) as [Sample]
    return sample
  }

  /** Starts `streams` streams of `count` events of `bytes`, without a client. */
  flood(id: string, streams: number, count: number, bytes: number): void {
    this.#child.send({ kind: 'flood', id, streams, count, bytes })
  }

  /** Samples until `condition` holds; the maxima are those of the whole time. */
  async sampleUntil(what: string, condition: (sample: Sample) => boolean): Promise<Sample> {
    let max: Sample['max'] | undefined
    for (let samples = 0; samples < MAX_SAMPLES; samples++) {
      const sample = await this.sample()
      max = max === undefined ? sample.max : higher(max, sample.max)
      if (condition(sample)) return { ...sample, max }
      await delay(20)
    }
    throw new Error(`Waited for this in vain: ${what}`)
  }
}

function higher(one: Sample['max'], other: Sample['max']): Sample['max'] {
  return {
    rssBytes: Math.max(one.rssBytes, other.rssBytes),
    bufferedBytes: Math.max(one.bufferedBytes, other.bufferedBytes),
    backlogBytes: Math.max(one.backlogBytes, other.backlogBytes),
    largestBacklogBytes: Math.max(one.largestBacklogBytes, other.largestBacklogBytes)
  }
}
