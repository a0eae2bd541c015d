import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import type { StreamPluginOptions } from '../../src/index.ts'
import type { Sample } from '../fixtures/memory-server.ts'

export const KIB = 1024
export const MIB: number = 1024 * KIB

const SLICE_BYTES = 64 * KIB
// The window of a log counts bytes on the wire. What it holds are segments, of which large frames may leave almost half
// empty, and what has left the window since the turn of the event loop began.
const HELD_FACTOR = 2
const SEGMENT_BYTES = 256 * KIB
/** What a process may take beyond what it was told to: a heap that is not collected yet, buffers of the kernel's reads. */
const MARGIN_BYTES = 96 * MIB
/** What Node holds for one connection with its request. */
const CONNECTION_BYTES = 40 * KIB

/** Asserts that the server never held more than logs with a window of `log` bytes and so many clients may. */
export function assertHeld(
  t: Test,
  sample: Sample,
  { baseline }: MemoryServer,
  limits: { readonly log: number; readonly clients: number }
): void {
  const { max } = sample
  const logBytes = HELD_FACTOR * limits.log + SEGMENT_BYTES
  t.ok(max.bufferedBytes <= logBytes, `logs held ${max.bufferedBytes} bytes at most`)
  t.ok(max.largestBacklogBytes <= 2 * SLICE_BYTES, `one socket held ${max.largestBacklogBytes} bytes at most`)
  const clientBytes = limits.clients * (2 * SLICE_BYTES + CONNECTION_BYTES)
  const allowed = baseline.rssBytes + logBytes + clientBytes + MARGIN_BYTES
  t.ok(max.rssBytes <= allowed, `the process held ${mib(max.rssBytes)} at most, ${mib(allowed)} are allowed`)
}

export function mib(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`
}

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
      execArgv: ['--expose-gc', '--import', import.meta.resolve('tsx')],
      // JSON knows no Infinity.
      serialization: 'advanced'
    })
    t.teardown(() => child.kill('SIGKILL'))
    child.send({ kind: 'start', plugin, http2 })
    const { port } = await nextMessage<{ port: number }>(child)
    child.send({ kind: 'sample' })
    return new MemoryServer(child, port, await nextMessage<Sample>(child))
  }

  async sample(): Promise<Sample> {
    this.#child.send({ kind: 'sample' })
    return nextMessage<Sample>(this.#child)
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

async function nextMessage<Message>(child: ChildProcess): Promise<Message> {
  const died = new AbortController()
  const onExit = (code: number | null): void => died.abort(new Error(`The server has died (${code})`))
  child.once('exit', onExit)
  try {
    const [message] = (await once(child, 'message', { signal: died.signal })) as [Message]
    return message
  } finally {
    child.removeListener('exit', onExit)
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
