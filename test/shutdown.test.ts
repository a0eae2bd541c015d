import { test, type Test } from 'tap'
import type { Registry } from '../src/registry.ts'
import { createRegistry } from './helpers/create-registry.ts'
import { Feed } from './helpers/feed.ts'
import type { ManualClock } from './helpers/manual-clock.ts'
import { turn } from './helpers/turns.ts'

const QUIET = { heartbeatInterval: 0, stallTimeout: Infinity } as const

/** Whether a shutdown is over, without waiting for it. */
function observe(closing: Promise<unknown>): { isDone: boolean } {
  const observed = { isDone: false }
  void closing.then(() => (observed.isDone = true))
  return observed
}

function assertNothingIsLeft(t: Test, registry: Registry, clock: ManualClock): void {
  t.equal(registry.size, 0)
  t.equal(registry.allStreams().length, 0)
  t.equal(registry.subscribers.size, 0)
  t.equal(registry.producers, 0)
  t.equal(registry.heartbeat.size, 0)
  t.equal(registry.stats().bufferedBytes, 0)
  t.equal(clock.pending, 0)
}

test('an empty registry closes at once', async (t) => {
  const { registry, clock } = createRegistry(t, QUIET)
  await registry.close()
  assertNothingIsLeft(t, registry, clock)
})

test('closing is idempotent', async (t) => {
  const { registry } = createRegistry(t, QUIET)
  const closing = registry.close()
  t.equal(registry.close(), closing)
  await closing
  t.equal(registry.close(), closing)
})

test('nothing starts any more', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const feed = new Feed()
  const closing = registry.close()
  t.throws(() => start(feed.handler), { code: 'FST_ERR_RSSE_SHUTTING_DOWN', statusCode: 503 })
  t.equal(feed.runs, 0)
  await closing
  t.throws(() => start(feed.handler), { code: 'FST_ERR_RSSE_SHUTTING_DOWN' })
})

test('running streams are cut: the client gets the rest, when to return, and a truncated body', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, { ...QUIET, retry: 1_000, abortTimeout: 500 })
  const feed = new Feed()
  const stream = start(feed.handler, { streamId: 'a' })
  const { transport } = attach(stream, { arrival: 'started' })
  feed.push('1')
  await turn()
  feed.push('2')
  await registry.close()
  t.match(feed.signal?.reason, { name: 'AbortError', message: 'Server shutdown' })
  t.equal(transport.outcome, 'truncated')
  t.strictSame(transport.control, ['stream-start'], 'neither an error nor an end: it shall come back')
  t.notMatch(transport.text, /\.end/)
  const retry = transport.retries.at(-1) as number
  // The flush timeout is what is left of the budget, then a second and the jittered delay.
  t.ok(retry >= 1_000 + 500, `${retry}`)
  t.equal(feed.closed, 1)
  assertNothingIsLeft(t, registry, clock)
})

test('with retry false no delay is sent', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...QUIET, retry: false })
  const { transport } = attach(start(new Feed().handler))
  await turn()
  await registry.close()
  t.equal(transport.outcome, 'truncated')
  t.strictSame(transport.retries, [])
})

test('a client that has everything of a finished stream gets its clean end', async (t) => {
  const { registry, start, attach } = createRegistry(t, QUIET)
  const feed = new Feed()
  const stream = start(feed.handler)
  feed.push('1')
  feed.end()
  await turn()
  const client = attach(stream, { opens: false })
  const closing = registry.close()
  client.open()
  await turn()
  t.equal(client.transport.outcome, 'end')
  t.strictSame(client.transport.data, ['1'])
  await closing
})

test('streams may finish by themselves within drainTimeout', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, { ...QUIET, drainTimeout: 3_000 })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler))
  await turn()
  const observed = observe(registry.close())
  clock.advance(2_000)
  feed.push('the last')
  await turn()
  t.notOk(observed.isDone)
  t.strictSame(transport.data, ['the last'])
  feed.end()
  await turn()
  t.ok(observed.isDone, 'and it does not wait longer than they take')
  t.equal(transport.outcome, 'end')
  assertNothingIsLeft(t, registry, clock)
})

test('after drainTimeout they are aborted', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, { ...QUIET, drainTimeout: 3_000 })
  const feed = new Feed()
  const { transport } = attach(start(feed.handler))
  await turn()
  const observed = observe(registry.close())
  clock.advance(2_999)
  await turn()
  t.equal(feed.closed, 0)
  clock.advance(1)
  await turn()
  t.equal(feed.closed, 1)
  t.equal(transport.outcome, 'truncated')
  t.ok(observed.isDone)
})

test('a generator that ignores its signal is let go after abortTimeout', async (t) => {
  const { registry, clock, start, attach, lines } = createRegistry(t, { ...QUIET, abortTimeout: 700 })
  const feed = new Feed({ ignoresSignal: true })
  const { transport } = attach(start(feed.handler, { streamId: 'deaf' }))
  await turn()
  const observed = observe(registry.close())
  await turn()
  clock.advance(699)
  await turn()
  t.notOk(observed.isDone)
  t.equal(transport.outcome, undefined, 'what it still has to say is waited for')
  clock.advance(1)
  await turn()
  t.ok(observed.isDone)
  t.equal(transport.outcome, 'truncated')
  t.match(
    lines.filter(({ level }) => level === 'warn'),
    [{ fields: { streamId: 'deaf' } }]
  )
  assertNothingIsLeft(t, registry, clock)
})

test('a client that does not read is destroyed when the time to flush is over', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, QUIET)
  const feed = new Feed()
  const stream = start(feed.handler)
  const stalled = attach(stream, { reads: false, highWaterMark: 1 })
  const reading = attach(stream)
  feed.push('1')
  await turn()
  const observed = observe(registry.close())
  await turn()
  t.equal(reading.transport.outcome, 'truncated')
  t.strictSame(reading.transport.data, ['1'])
  clock.advance(999)
  await turn()
  t.notOk(observed.isDone)
  clock.advance(1)
  await turn()
  t.ok(observed.isDone)
  t.ok(stalled.transport.isDestroyed)
  t.not(stalled.transport.outcome, 'end')
  assertNothingIsLeft(t, registry, clock)
})

test('a client that reads slowly gets the rest within the time to flush', async (t) => {
  const { registry, start, attach } = createRegistry(t, QUIET)
  const feed = new Feed()
  const { transport } = attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  feed.push(...Array.from({ length: 200 }, (_, i) => String(i)))
  await turn()
  const closing = registry.close()
  for (let i = 0; i < 100; i++) {
    transport.take(500)
    await turn()
  }
  transport.resume()
  await closing
  t.equal(transport.data.length, 200)
  t.equal(transport.outcome, 'truncated')
})

test('a body that has not started by then ends when it does', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, QUIET)
  const client = attach(start(new Feed().handler), { opens: false })
  await turn()
  const observed = observe(registry.close())
  await turn()
  t.notOk(observed.isDone)
  client.open()
  await turn()
  t.equal(client.transport.outcome, 'truncated')
  t.ok(observed.isDone)
  assertNothingIsLeft(t, registry, clock)
})

test('a body that never starts is not waited for', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, QUIET)
  const client = attach(start(new Feed().handler), { opens: false })
  await turn()
  const observed = observe(registry.close())
  await turn()
  clock.advance(1_000)
  await turn()
  t.ok(observed.isDone)
  client.open()
  t.ok(client.transport.isDestroyed)
  assertNothingIsLeft(t, registry, clock)
})

test('the whole takes no longer than its parts', async (t) => {
  const options = { ...QUIET, drainTimeout: 2_000, abortTimeout: 3_000 }
  const { registry, clock, start, attach } = createRegistry(t, options)
  const stream = start(new Feed({ ignoresSignal: true }).handler)
  attach(stream, { reads: false, highWaterMark: 1 })
  await turn()
  const observed = observe(registry.close())
  for (let ms = 0; ms < 6_000; ms += 100) {
    t.notOk(observed.isDone)
    clock.advance(100)
    await turn()
  }
  t.ok(observed.isDone)
  assertNothingIsLeft(t, registry, clock)
})

test('how long clients must stay away shrinks with what is left of the shutdown', async (t) => {
  const { registry, clock, start } = createRegistry(t, { ...QUIET, drainTimeout: 2_000, abortTimeout: 3_000 })
  t.equal(registry.returnAfterMs, 0)
  start(new Feed({ ignoresSignal: true }).handler)
  await turn()
  void registry.close()
  t.equal(registry.returnAfterMs, 2_000 + 3_000 + 1_000 + 1_000)
  clock.advance(1_500)
  t.equal(registry.returnAfterMs, 5_500)
})

test('nor does anybody stay away for a part that was not needed', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...QUIET, drainTimeout: 60_000, abortTimeout: 3_000 })
  const feed = new Feed()
  attach(start(feed.handler), { reads: false, highWaterMark: 1 })
  void registry.close()
  feed.push('1')
  feed.end()
  await turn()
  t.equal(registry.returnAfterMs, 1_000 + 1_000)
})

test('a stream that is evicted during the drain is cut with the others', async (t) => {
  const { registry, clock, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1, abortTimeout: 1_000 })
  start(new Feed({ ignoresSignal: true }).handler, { streamId: 'a' })
  await turn()
  start(new Feed().handler, { streamId: 'b' })
  await turn()
  const observed = observe(registry.close())
  await turn()
  clock.advance(1_000)
  await turn()
  t.ok(observed.isDone)
  assertNothingIsLeft(t, registry, clock)
})
