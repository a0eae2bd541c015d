import t, { type Test } from 'tap'
import type { SseStreams, StreamOutcome, StreamPluginOptions } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { ManualClock } from '../helpers/manual-clock.ts'
import { numbers } from '../helpers/numbers.ts'
import type { SseClient } from '../helpers/sse-client.ts'
import { INSTANCES, oneInstance } from '../helpers/shared-store.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

// Every way in which a stream can finish, with real clients: it stays for one full TTL after the later of its finish and
// its last client, and nothing of it is left then.

const ttl = 60_000
const orphanTimeout = 20_000

const keptElsewhere = oneInstance('the store keeps a finished stream that has given way here')

// Where there is a store, its timers are far away.
const NEVER_POLLS = { lease: 1_000_000_000, pollInterval: 1_000_000_000 }

interface Life {
  readonly app: App
  /** The instance that runs the streams, whose time the test makes. */
  readonly home: App
  readonly streams: SseStreams
  readonly clock: ManualClock
  /** Timers that are armed without any stream. */
  readonly idle: number
  /** Three steps finish the stream; the outcome is in its path. */
  readonly gate: StepGate
  readonly controller: AbortController
}

async function startLife(t: Test, plugin: StreamPluginOptions = {}): Promise<Life> {
  const clock = new ManualClock()
  const gate = new StepGate()
  const controller = new AbortController()
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/completes', (_, reply) =>
        reply.sseFromGenerator(numbers(3, gate), { streamId: 's', signal: controller.signal })
      )
      fastify.get('/fails', (_, reply) =>
        reply.sseFromGenerator(
          async function* (signal) {
            yield* numbers(3, gate)(signal)
            throw new Error('failed')
          },
          { streamId: 's' }
        )
      )
      fastify.get('/other', (_, reply) => reply.sseFromGenerator(numbers(1, new StepGate()), { streamId: 'other' }))
    },
    {
      clock: (instance) => (instance === 0 ? clock : undefined),
      store: NEVER_POLLS,
      plugin: { bufferTTL: ttl, orphanTimeout, heartbeatInterval: 0, stallTimeout: Infinity, ...plugin }
    }
  )
  const home = app.at(0)
  return { app, home, streams: home.streams, clock, idle: clock.pending, gate, controller }
}

function clientsOf({ app }: Life): number {
  return app.streams.get('s')?.clients ?? 0
}

async function leave(life: Life, client: SseClient): Promise<void> {
  await client.drop()
  await eventually('it has left', () => clientsOf(life) === 0)
}

/** The stream has finished and has no client: it expires after exactly one TTL, and leaves nothing. */
async function expires(t: Test, { streams, clock, idle }: Life, outcome: StreamOutcome): Promise<void> {
  await eventually('it has finished and is alone', () => {
    const info = streams.get('s')
    return info?.state === 'finished' && info.clients === 0
  })
  // An aborted generator is given time to close before the TTL begins.
  await eventually('a full TTL', () => clock.nextIn === ttl)
  t.equal(clock.pending, idle + 1, 'one timer')
  t.equal(streams.get('s')?.outcome, outcome)
  clock.advance(ttl - 1)
  t.ok(streams.get('s'), 'still there at TTL - 1 ms')
  clock.advance(1)
  t.equal(streams.get('s'), undefined, 'gone at TTL')
  t.equal(clock.pending, idle, 'no timer is left')
  // What the store does not have yet is kept for it.
  if (INSTANCES > 1) await eventually('it is stored', () => streams.stats().bufferedBytes === 0)
  t.match(streams.stats(), { running: 0, finished: 0, clients: 0, bufferedEvents: 0, bufferedBytes: 0, expired: 1 })
}

t.test('completes while its client is connected', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/completes')
  life.gate.release(3)
  t.equal(await client.waitForEnd(), 'end')
  await expires(t, life, 'completed')
})

t.test('completes after its client left', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/completes')
  await client.next()
  await leave(life, client)
  life.gate.release(3)
  await expires(t, life, 'completed')
})

t.test('fails while its client is connected', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/fails')
  life.gate.release(3)
  t.equal(await client.waitForEnd(), 'end')
  await expires(t, life, 'failed')
})

t.test('fails after its client left', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/fails')
  await client.next()
  await leave(life, client)
  life.gate.release(3)
  await expires(t, life, 'failed')
})

const aborts: Record<string, (life: Life) => unknown> = {
  'abort()': ({ streams }) => streams.abort('s'),
  'abortAll()': ({ streams }) => streams.abortAll(),
  'its signal': ({ controller }) => controller.abort()
}
for (const [name, abort] of Object.entries(aborts)) {
  t.test(`is aborted by ${name} while its client is connected`, async (t) => {
    const life = await startLife(t)
    const client = await life.app.open('/completes')
    life.gate.release(1)
    await client.waitForData(1)
    await abort(life)
    t.equal(await client.waitForEnd(), 'end')
    await expires(t, life, 'aborted')
  })

  t.test(`is aborted by ${name} after its client left`, async (t) => {
    const life = await startLife(t)
    const client = await life.app.open('/completes')
    await client.next()
    await leave(life, client)
    await abort(life)
    await expires(t, life, 'aborted')
  })
}

t.test('is aborted by the orphan timeout', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/completes')
  await client.next()
  await leave(life, client)
  t.equal(life.clock.nextIn, orphanTimeout)
  life.clock.advance(orphanTimeout - 1)
  t.equal(life.streams.get('s')?.state, 'running')
  life.clock.advance(1)
  await expires(t, life, 'aborted')
})

t.test('a client that comes back keeps it from the orphan timeout', async (t) => {
  const life = await startLife(t)
  const client = await life.app.open('/completes')
  await client.next()
  await leave(life, client)
  life.clock.advance(orphanTimeout - 1)
  const back = await client.reconnect()
  await eventually('it is back', () => clientsOf(life) === 1)
  life.clock.advance(10 * orphanTimeout)
  life.gate.release(3)
  t.equal(await back.waitForEnd(), 'end')
  await expires(t, life, 'completed')
})

t.test('is evicted while its client is connected', async (t) => {
  const { home, streams, clock, idle } = await startLife(t, { maxActiveStreams: 1, orphanTimeout: Infinity })
  const client = await home.open('/completes')
  await client.next()
  await home.open('/other')
  t.equal(await client.waitForEnd(), 'end')
  t.equal(client.events.at(-1)?.data, '{"outcome":"evicted"}')
  t.equal(streams.get('s'), undefined)
  await eventually('its generator has closed', () => streams.stats().running === 1)
  t.equal(clock.pending, idle)
  t.match(streams.stats(), { evicted: 1, removedForCapacity: 1, clients: 1 })
})

t.test('is never attached at all', async (t) => {
  const life = await startLife(t)
  await life.streams.start(numbers(2), { streamId: 's' })
  await expires(t, life, 'completed')
})

t.test(
  'a reconnect inside the window replays, cancels the removal, and a full new TTL starts when it leaves',
  async (t) => {
    const life = await startLife(t)
    const client = await life.app.open('/completes')
    life.gate.release(3)
    await client.waitForEnd()
    await eventually('its TTL', () => life.clock.pending === life.idle + 1)
    life.clock.advance(ttl - 1)

    // Each copy of a finished stream has a time of its own.
    const back = await life.home.open('/completes', { lastEventId: client.userEvents[0]?.id })
    t.equal(await back.waitForEnd(), 'end')
    t.same(back.data, ['2', '3'])
    await expires(t, life, 'completed')
  }
)

t.test('a finished stream with a client that still reads its replay is never removed', async (t) => {
  const life = await startLife(t)
  const { app, streams, clock } = life
  const big = Array.from({ length: 100 }, (_, index) => `${index} ${'x'.repeat(100_000)}`)
  await streams.start(() => big, { streamId: 's', bufferBytes: 32 * 1024 * 1024 })
  await eventually('it has finished', () => streams.get('s')?.state === 'finished')
  const client = await app.open('/completes')
  client.pause()
  clock.advance(10 * ttl)
  t.equal(streams.get('s')?.clients, 1)
  client.resume()
  t.equal(await client.waitForEnd(), 'end')
  t.same(client.data, big)
  await expires(t, life, 'completed')
})

t.test('an older stream never takes a newer one of the same name along', keptElsewhere, async (t) => {
  const { app, streams, clock, gate } = await startLife(t, { maxActiveStreams: 1 })
  const first = await app.open('/completes')
  gate.release(3)
  await first.waitForEnd()
  await eventually('its TTL', () => clock.pending === 1)
  clock.advance(ttl / 2)
  // Removes the finished one for its place, and is removed in its turn.
  await (await app.open('/other')).drop()
  const second = await app.open('/completes')
  await second.next()
  clock.advance(ttl)
  t.equal(streams.get('s')?.state, 'running')
  t.equal(streams.get('s')?.clients, 1)
})

t.test('re-inserting an existing name at capacity evicts nobody', async (t) => {
  const { home, streams } = await startLife(t, { maxActiveStreams: 2 })
  await home.open('/other')
  const clients = [await home.open('/completes'), await home.open('/completes'), await home.open('/completes')]
  t.equal(streams.size, 2)
  t.equal(streams.get('s')?.clients, clients.length)
  t.equal(streams.stats().removedForCapacity, 0)
})
