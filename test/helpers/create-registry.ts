import type { Test } from 'tap'
import { parseCursor } from '../../src/cursor.ts'
import type { EventStream } from '../../src/event-stream.ts'
import type { SseInput } from '../../src/frame.ts'
import type { ClientOptions, StreamOptions, StreamPluginOptions } from '../../src/options.ts'
import { Registry } from '../../src/registry.ts'
import type { Handler } from '../../src/stream-source.ts'
import type { Arrival } from '../../src/replay.ts'
import { resolveAttachCall, resolvePluginOptions, resolveStreamCall } from '../../src/settings.ts'
import type { Subscriber } from '../../src/subscriber.ts'
import { FakeTransport } from './fake-transport.ts'
import { ManualClock } from './manual-clock.ts'
import { createRecordingLog, type LogLine } from './recording-log.ts'

export interface StartOptions extends StreamOptions {
  readonly map?: (value: never) => SseInput
}

export interface ClientRequest extends ClientOptions {
  readonly lastEventId?: string | undefined
  readonly from?: 'start' | 'live' | undefined
  readonly arrival?: Arrival | undefined
  /** `false`: the body does not start by itself; call `open()`. */
  readonly opens?: boolean | undefined
  /** `false`: nothing is taken until the test says so. */
  readonly reads?: boolean | undefined
  readonly highWaterMark?: number | undefined
}

/** One attached response, with a transport that has no socket. */
export interface FakeClient {
  readonly subscriber: Subscriber
  readonly transport: FakeTransport
  open(): void
  /** The connection is lost, and what waited in it. */
  drop(): void
}

/** A registry on the manual clock. */
export interface RegistryFixture {
  readonly clock: ManualClock
  readonly registry: Registry
  readonly lines: LogLine[]
  start(handler: Handler, options?: StartOptions): EventStream
  attach(stream: EventStream, request?: ClientRequest): FakeClient
}

/** Makes a registry as the plugin does, without Fastify. It is closed at the end of the test. */
export function createRegistry(
  t: Test,
  options: StreamPluginOptions = {},
  clock: ManualClock = new ManualClock()
): RegistryFixture {
  const settings = resolvePluginOptions(options)
  const { log, lines } = createRecordingLog()
  const registry = new Registry(settings.registry, clock, log)
  t.teardown(async () => {
    const closed = registry.close()
    for (let isClosed = false; !isClosed; clock.advance(1_000)) {
      isClosed = await Promise.race([
        closed.then(() => true),
        new Promise<boolean>((resolve) => setImmediate(resolve, false))
      ])
    }
  })
  return {
    clock,
    registry,
    lines,
    start(handler, startOptions) {
      const call = resolveStreamCall(startOptions, settings)
      return registry.findOrStart({ handler, call, owner: call.owner, route: undefined, log }).stream
    },
    attach(stream, { arrival = 'attached', opens = true, reads = true, highWaterMark, ...request } = {}) {
      const { client, from, lastEventId } = resolveAttachCall(request, settings)
      const subscriber = registry.attach(stream, { arrival, cursor: parseCursor(lastEventId), from }, client)
      const transport = new FakeTransport()
      transport.isReading = reads
      if (highWaterMark !== undefined) transport.highWaterMark = highWaterMark
      transport.onDrain = subscriber.onDrain
      transport.onClose = subscriber.leave
      const open = (): void => subscriber.open(transport)
      if (opens) open()
      return { subscriber, transport, open, drop: () => transport.drop() }
    }
  }
}
