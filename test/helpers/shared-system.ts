import type { Test } from 'tap'
import type { EventStream } from '../../src/event-stream.ts'
import type { StreamPluginOptions } from '../../src/options.ts'
import { resolvePluginOptions, resolveStreamCall } from '../../src/settings.ts'
import { SharedStreams } from '../../src/shared-streams.ts'
import { createRegistry, type RegistryFixture } from './create-registry.ts'
import type { Feed } from './feed.ts'
import { ManualClock } from './manual-clock.ts'
import { MemoryServer, type MemoryStore } from './memory-store.ts'
import { createRecordingLog } from './recording-log.ts'
import { turn } from './turns.ts'

export const LEASE_MS = 12_000
export const POLL_MS = 1_000
/** How far the clock moves at once. */
export const STEP_MS = 50

const NO_CURSOR = { kind: 'none' } as const

/** One of several instances in this process. */
export interface Instance extends Pick<RegistryFixture, 'registry' | 'attach'> {
  readonly store: MemoryStore
  readonly streams: SharedStreams
  /** The stream of this name, started here if there is none. */
  start(feed: Feed, streamId: string): Promise<EventStream>
  /** The stream of this name, as whoever attaches finds it. */
  find(streamId: string): Promise<EventStream>
}

export interface SharedSystem {
  readonly server: MemoryServer
  readonly clock: ManualClock
  connect(options?: StreamPluginOptions): Promise<Instance>
  /** Lets time pass, and what happens in it happen. */
  pass(ms: number, onStep?: () => void): Promise<void>
}

/** Instances that share a store in memory, on one clock that stands until a test says otherwise. */
export function createSharedSystem(t: Test): SharedSystem {
  const clock = new ManualClock()
  const server = new MemoryServer(clock)
  const { log } = createRecordingLog()
  return {
    clock,
    server,
    async connect(options = {}) {
      const settings = resolvePluginOptions(options)
      const { registry, attach } = createRegistry(t, options, clock)
      const store = server.connect(LEASE_MS, POLL_MS)
      const streams = new SharedStreams(store, registry, settings.stream, clock, log)
      await streams.open()
      return {
        registry,
        attach,
        store,
        streams,
        async start(feed, streamId) {
          const call = resolveStreamCall({ streamId }, settings)
          const request = { handler: feed.handler, call, owner: undefined, route: undefined, log }
          return (await streams.findOrStart(request, false)).stream
        },
        async find(streamId) {
          const stream = await streams.find(streamId, undefined, NO_CURSOR)
          if (stream === undefined) throw new Error(`${streamId} is not there`)
          return stream
        }
      }
    },
    async pass(ms, onStep = () => {}) {
      for (let passed = 0; passed < ms; passed += STEP_MS) {
        onStep()
        await turn()
        clock.advance(STEP_MS)
        await turn()
      }
    }
  }
}
