import { AsyncLocalStorage } from 'node:async_hooks'
import { getEventListeners } from 'node:events'
import { test, type Test } from 'tap'
import type { EventStream } from '../src/event-stream.ts'
import type { StreamPluginOptions } from '../src/options.ts'
import { collectGarbage } from './helpers/collect-garbage.ts'
import { createRegistry, type FakeClient, type RegistryFixture, type StartOptions } from './helpers/create-registry.ts'
import { Feed } from './helpers/feed.ts'
import { turn, turnsUntil } from './helpers/turns.ts'

const TTL = 10_000
const ORPHAN = 5_000
const OPTIONS = { bufferTTL: TTL, orphanTimeout: ORPHAN, heartbeatInterval: 0, stallTimeout: Infinity } as const

interface Fixture extends RegistryFixture {
  readonly feed: Feed
  readonly stream: EventStream
  /** Whether the registry still knows the stream. */
  isFound(): boolean
}

function createStream(t: Test, options: StreamPluginOptions = {}, call: StartOptions = {}, feed = new Feed()): Fixture {
  const fixture = createRegistry(t, { ...OPTIONS, ...options })
  const stream = fixture.start(feed.handler, { streamId: 'a', ...call })
  return { ...fixture, feed, stream, isFound: () => fixture.registry.find('a', undefined) === stream }
}

/** Still there one millisecond before the TTL is over, gone when it is, and nothing stays behind. */
async function expires(t: Test, { clock, registry, isFound }: Fixture): Promise<void> {
  await turn()
  t.equal(clock.pending, 1, 'one timer')
  clock.advance(TTL - 1)
  t.ok(isFound(), 'still there at TTL - 1 ms')
  clock.advance(1)
  t.notOk(isFound(), 'gone at TTL')
  t.equal(clock.pending, 0, 'no timer')
  t.equal(registry.size, 0)
  t.equal(registry.producers, 0)
  t.equal(registry.stats().bufferedBytes, 0)
  t.equal(registry.stats().expired, 1)
}

// ── the ways to finish, each with a client and after it left ─────────────────────────────────────────────────────────

interface Way {
  readonly outcome: string
  readonly error?: { readonly code: string; readonly message: string }
  readonly finish: (fixture: Fixture, controller: AbortController) => void
}

const WAYS: Record<string, Way> = {
  completes: { outcome: 'completed', finish: ({ feed }) => feed.end() },
  fails: {
    outcome: 'failed',
    error: { code: 'STREAM_FAILED', message: 'Internal Server Error' },
    finish: ({ feed }) => feed.fail(new Error('secret'))
  },
  'is aborted': {
    outcome: 'aborted',
    error: { code: 'STREAM_ABORTED', message: 'The stream was aborted' },
    finish: ({ stream }) => stream.abort('aborted', 'secret')
  },
  'is aborted with all': {
    outcome: 'aborted',
    error: { code: 'STREAM_ABORTED', message: 'The stream was aborted' },
    finish: ({ registry }) => void registry.abortAll('secret')
  },
  'is aborted by its signal': {
    outcome: 'aborted',
    error: { code: 'STREAM_ABORTED', message: 'The stream was aborted' },
    finish: (_, controller) => controller.abort(new Error('secret'))
  }
}

for (const [what, { outcome, error, finish }] of Object.entries(WAYS)) {
  test(`a stream that ${what} while its client is connected ends its response and expires`, async (t) => {
    const controller = new AbortController()
    const fixture = createStream(t, {}, { signal: controller.signal })
    const { transport } = fixture.attach(fixture.stream, { arrival: 'started' })
    fixture.feed.push('1', '2')
    await turn()
    t.equal(fixture.clock.pending, 0, 'no timer while a client is there')
    finish(fixture, controller)
    await turn()
    t.equal(fixture.stream.outcome, outcome)
    t.strictSame(transport.data, ['1', '2'])
    t.equal(transport.outcome, 'end')
    t.strictSame(transport.controlData('stream-end'), { outcome })
    t.strictSame(transport.controlData('stream-error'), error)
    t.equal(fixture.feed.closed, 1)
    await expires(t, fixture)
  })

  test(`a stream that ${what} after its client left expires, and replays until then`, async (t) => {
    const controller = new AbortController()
    const fixture = createStream(t, {}, { signal: controller.signal })
    const first = fixture.attach(fixture.stream, { arrival: 'started' })
    fixture.feed.push('1')
    await turn()
    first.drop()
    await turn()
    fixture.feed.push('2')
    await turn()
    fixture.clock.advance(ORPHAN - 1)
    finish(fixture, controller)
    await turn()
    t.equal(fixture.stream.outcome, outcome)

    fixture.clock.advance(TTL - 1)
    const second = fixture.attach(fixture.stream, { lastEventId: first.transport.lastEventId })
    await turn()
    t.strictSame(second.transport.data, ['2'], 'exactly what it missed')
    t.strictSame(second.transport.controlData('stream-error'), error)
    t.strictSame(second.transport.controlData('stream-end'), { outcome })
    await expires(t, fixture)
  })

  test(`a stream that ${what} without ever having had a client expires`, async (t) => {
    const controller = new AbortController()
    const fixture = createStream(t, {}, { signal: controller.signal })
    fixture.feed.push('1')
    await turn()
    finish(fixture, controller)
    await turn()
    t.equal(fixture.stream.outcome, outcome)
    await expires(t, fixture)
  })
}

test('a stream whose last client stays away is aborted by the orphan timer, and expires', async (t) => {
  const fixture = createStream(t)
  const client = fixture.attach(fixture.stream)
  await turn()
  t.equal(fixture.clock.pending, 0)
  client.drop()
  await turn()
  t.equal(fixture.clock.pending, 1)
  fixture.clock.advance(ORPHAN - 1)
  t.notOk(fixture.stream.isFinished)
  fixture.clock.advance(1)
  t.equal(fixture.stream.outcome, 'aborted')
  t.match(fixture.feed.signal?.reason, { name: 'AbortError' })
  await expires(t, fixture)
})

test('a stream that never had a client is an orphan from its start', async (t) => {
  const fixture = createStream(t)
  fixture.clock.advance(ORPHAN - 1)
  t.notOk(fixture.stream.isFinished)
  fixture.clock.advance(1)
  t.equal(fixture.stream.outcome, 'aborted')
  await expires(t, fixture)
})

test('a client disarms the orphan timer, and a full time starts when it leaves', async (t) => {
  const { clock, stream, attach } = createStream(t)
  for (let i = 0; i < 3; i++) {
    clock.advance(ORPHAN - 1)
    const client = attach(stream)
    t.equal(clock.pending, 0)
    clock.advance(10 * ORPHAN)
    client.drop()
    await turn()
  }
  t.notOk(stream.isFinished)
  clock.advance(ORPHAN)
  t.equal(stream.outcome, 'aborted')
})

test('only the last of several clients makes an orphan', async (t) => {
  const { clock, stream, attach } = createStream(t)
  const first = attach(stream)
  const second = attach(stream)
  first.drop()
  await turn()
  clock.advance(10 * ORPHAN)
  t.notOk(stream.isFinished)
  second.drop()
  await turn()
  clock.advance(ORPHAN)
  t.equal(stream.outcome, 'aborted')
})

test('orphanTimeout 0 aborts as soon as the last client leaves, and never a stream that had none', async (t) => {
  const { clock, stream, attach, feed } = createStream(t, { orphanTimeout: 0 })
  t.equal(clock.pending, 0)
  clock.advance(1_000_000)
  t.notOk(stream.isFinished)
  const client = attach(stream)
  await turn()
  client.drop()
  await turn()
  t.equal(stream.outcome, 'aborted')
  t.equal(feed.closed, 1)
})

test('orphanTimeout Infinity lets a stream run for ever', async (t) => {
  const { clock, stream, attach } = createStream(t, { orphanTimeout: Infinity })
  const client = attach(stream)
  await turn()
  client.drop()
  await turn()
  t.equal(clock.pending, 0)
  clock.advance(1_000_000_000)
  t.notOk(stream.isFinished)
})

// ── removal ──────────────────────────────────────────────────────────────────────────────────────────────────────────

test('a client inside the window cancels the removal, and a full new TTL starts when it leaves', async (t) => {
  const fixture = createStream(t)
  const { clock, feed, stream, attach, isFound } = fixture
  feed.push('1')
  feed.end()
  await turn()
  for (let i = 0; i < 3; i++) {
    clock.advance(TTL - 1)
    // It takes nothing, so it stays.
    const client = attach(stream, { reads: false, highWaterMark: 1 })
    t.equal(clock.pending, 0, 'the removal is cancelled')
    clock.advance(10 * TTL)
    t.ok(isFound())
    client.drop()
    await turn()
  }
  await expires(t, fixture)
})

test('a finished stream with a client that still reads its replay is never removed', async (t) => {
  const fixture = createStream(t)
  const { clock, feed, stream, attach, isFound } = fixture
  feed.push(...Array.from({ length: 100 }, () => 'x'.repeat(10_000)))
  feed.end()
  await turn()
  const { transport } = attach(stream, { reads: false })
  for (let i = 0; i < 15; i++) {
    clock.advance(TTL)
    t.ok(isFound())
    transport.take(10_000)
    await turn()
  }
  transport.resume()
  await turnsUntil('the end', () => transport.outcome !== undefined)
  t.equal(transport.outcome, 'end')
  t.equal(transport.data.length, 100)
  await expires(t, fixture)
})

test('a response that has ended leaves its stream at once, however long its socket takes', async (t) => {
  const fixture = createStream(t)
  const { feed, stream, attach } = fixture
  feed.push('1')
  feed.end()
  await turn()
  const { transport, subscriber } = attach(stream, { reads: false })
  await turn()
  t.equal(transport.outcome, 'end')
  t.equal(stream.clients, 0)
  t.notOk(subscriber.isClosed)
  await expires(t, fixture)
  t.equal(fixture.registry.subscribers.size, 1)
  transport.resume()
  await turn()
  t.ok(subscriber.isClosed)
  t.strictSame(transport.data, ['1'], 'its bytes were not taken away')
})

test('bufferTTL 0 removes at once, but not under a client', async (t) => {
  const { clock, feed, stream, attach, isFound } = createStream(t, { bufferTTL: 0 })
  const { transport } = attach(stream, { reads: false, highWaterMark: 1 })
  feed.push('1')
  feed.end()
  await turn()
  t.ok(stream.isFinished)
  t.ok(isFound())
  t.equal(clock.pending, 0)
  transport.resume()
  await turn()
  t.equal(transport.outcome, 'end')
  t.strictSame(transport.data, ['1'])
  t.notOk(isFound())
  t.equal(clock.pending, 0)
})

test('bufferTTL 0 removes a stream that nobody reads as it finishes', async (t) => {
  const { clock, feed, isFound, registry } = createStream(t, { bufferTTL: 0 })
  feed.push('1')
  feed.end()
  await turn()
  t.notOk(isFound())
  t.equal(clock.pending, 0)
  t.match(registry.stats(), { started: 1, completed: 1, expired: 1, finished: 0, bufferedBytes: 0 })
})

test('a stale timer never removes a newer stream of the same name', async (t) => {
  const fixture = createStream(t, { maxActiveStreams: 1 })
  const { clock, feed, registry, start } = fixture
  feed.end()
  await turn()
  clock.advance(TTL - 1)
  start(new Feed().handler, { streamId: 'b' })
  t.notOk(fixture.isFound(), 'evicted')
  await turn()
  const again = start(new Feed().handler, { streamId: 'a' })
  await turn()
  t.equal(clock.pending, 1)
  clock.advance(1)
  t.equal(registry.find('a', undefined), again)
  clock.advance(ORPHAN - 2)
  t.equal(registry.find('a', undefined), again)
  t.notOk(again.isFinished)
})

// ── abort ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('the reason of an abort is an AbortError with what was said, and nothing of it reaches a client', async (t) => {
  const { feed, stream, attach } = createStream(t)
  const { transport } = attach(stream)
  await turn()
  stream.abort('aborted', 'the secret reason')
  await turn()
  t.type(feed.signal?.reason, DOMException)
  t.match(feed.signal?.reason, { name: 'AbortError', message: 'the secret reason' })
  t.notMatch(transport.text, /secret/)
})

test("the reason of the user's signal is the cause of ours", async (t) => {
  const cause = new Error('mine')
  const controller = new AbortController()
  const { feed } = createStream(t, {}, { signal: controller.signal })
  await turn()
  controller.abort(cause)
  t.match(feed.signal?.reason, { name: 'AbortError' })
  t.equal((feed.signal as AbortSignal).reason.cause, cause)
})

test("a finished stream has no listener on the user's signal any more", async (t) => {
  const controller = new AbortController()
  const { feed, stream } = createStream(t, {}, { signal: controller.signal })
  await turn()
  t.equal(getEventListeners(controller.signal, 'abort').length, 1)
  feed.end()
  await turn()
  t.equal(getEventListeners(controller.signal, 'abort').length, 0)
  controller.abort()
  t.equal(stream.outcome, 'completed')
})

test('with a signal that is aborted already the handler is not called, and the stream finishes', async (t) => {
  const fixture = createStream(t, {}, { signal: AbortSignal.abort(new Error('mine')) })
  t.equal(fixture.feed.runs, 0)
  t.equal(fixture.stream.outcome, 'aborted')
  const { transport } = fixture.attach(fixture.stream, { arrival: 'started' })
  await turn()
  t.strictSame(transport.control, ['stream-start', 'stream-error', 'stream-end'])
  await expires(t, fixture)
  t.match(fixture.registry.stats(), { started: 1, aborted: 1, running: 0 })
})

test('a signal that the handler itself aborts finishes the stream and closes its generator', async (t) => {
  const { registry, start, clock } = createRegistry(t, OPTIONS)
  const controller = new AbortController()
  let closed = false
  const stream = start(
    () => {
      controller.abort()
      return {
        [Symbol.asyncIterator]: () => ({
          next: async () => ({ done: true }),
          return: async () => {
            closed = true
            return {}
          }
        })
      }
    },
    { signal: controller.signal }
  )
  t.equal(stream.outcome, 'aborted')
  await turn()
  t.ok(closed)
  t.equal(registry.producers, 0)
  t.equal(clock.nextIn, TTL)
})

test('a handler that aborts its signal and then rejects crashes nothing', async (t) => {
  const { registry, start } = createRegistry(t, OPTIONS)
  const controller = new AbortController()
  start(
    async () => {
      controller.abort()
      await null
      throw new Error('nobody wants to know')
    },
    { signal: controller.signal }
  )
  await turn()
  t.equal(registry.producers, 0)
})

test('a second abort, and one after the end, does nothing', async (t) => {
  const { feed, stream, registry } = createStream(t)
  await turn()
  stream.abort('aborted', 'first')
  stream.abort('evicted', 'second')
  t.equal(stream.outcome, 'aborted')
  t.match(feed.signal?.reason, { message: 'first' })
  await turn()
  stream.abort('aborted', 'third')
  t.match(registry.stats(), { aborted: 1, evicted: 0, running: 0 })
})

test('an AbortError of the generator itself is a failure', async (t) => {
  const { feed, stream, attach } = createStream(t)
  const { transport } = attach(stream)
  feed.fail(new DOMException('mine', 'AbortError'))
  await turn()
  t.equal(stream.outcome, 'failed')
  t.equal(transport.controlData('stream-error')?.['code'], 'STREAM_ABORTED')
})

test('a generator that ignores its signal is let go after abortTimeout, with one timer and one warning', async (t) => {
  const feed = new Feed({ ignoresSignal: true })
  const fixture = createStream(t, { abortTimeout: 1_000 }, {}, feed)
  const { clock, stream, registry, lines, attach } = fixture
  const { transport } = attach(stream)
  feed.push('1')
  await turn()
  stream.abort('aborted', 'stop')
  await turn()
  t.equal(transport.outcome, 'end', 'its clients are told at once')
  t.match(registry.stats(), { running: 0, aborted: 1 })
  t.equal(registry.producers, 1)
  t.equal(clock.pending, 1)
  clock.advance(999)
  t.equal(registry.producers, 1)
  // Whoever comes and goes meanwhile does not prolong it.
  const late = attach(stream)
  await turn()
  t.strictSame(late.transport.data, ['1'])
  t.equal(clock.pending, 1)
  clock.advance(1)
  t.equal(registry.producers, 0)
  t.match(
    lines.filter(({ level }) => level === 'warn'),
    [{ fields: { streamId: 'a' }, message: /let go/ }]
  )
  feed.push('2')
  await turn()
  t.equal(stream.log.lastSequence, 1, 'a late value is discarded')
  await expires(t, fixture)
})

test('a generator that closes in time leaves no warning', async (t) => {
  const fixture = createStream(t)
  await turn()
  fixture.stream.abort('aborted', 'stop')
  await turn()
  t.strictSame(
    fixture.lines.map(({ level }) => level),
    ['info']
  )
  await expires(t, fixture)
})

test('abortTimeout 0 lets go at the next timer', async (t) => {
  const { clock, stream, registry } = createStream(t, { abortTimeout: 0 }, {}, new Feed({ ignoresSignal: true }))
  await turn()
  stream.abort('aborted', 'stop')
  clock.advance(0)
  t.equal(registry.producers, 0)
})

test('a finally that throws after an abort is logged, and changes nothing', async (t) => {
  const { start, lines, registry } = createRegistry(t, OPTIONS)
  const stream = start(async function* (signal) {
    try {
      yield '1'
      await new Promise((_, reject) => signal.addEventListener('abort', reject))
    } finally {
      // oxlint-disable-next-line no-unsafe-finally -- the abuse
      throw new Error('mine')
    }
  })
  await turn()
  stream.abort('aborted', 'stop')
  await turn()
  t.equal(stream.outcome, 'aborted')
  t.equal(registry.producers, 0)
  t.ok(lines.length >= 1)
})

// ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

test('an event that is too large is thrown at its yield', async (t) => {
  const { start } = createRegistry(t, { ...OPTIONS, maxEventSize: 100, bufferBytes: 1_000 })
  const caught: unknown[] = []
  const stream = start(async function* () {
    try {
      yield 'x'.repeat(1_000)
    } catch (error) {
      caught.push(error)
    }
    yield 'small'
  })
  await turn()
  t.match(caught, [{ code: 'FST_ERR_RSSE_EVENT_TOO_LARGE', message: /maxEventSize allows 100/ }])
  t.equal(stream.log.lastSequence, 1)
  t.equal(stream.outcome, 'completed')
})

test('an event of exactly maxEventSize, and of exactly bufferBytes, is taken; a byte more is not', async (t) => {
  const { start } = createRegistry(t, { ...OPTIONS, bufferBytes: 200 })
  const overhead = 'data: \nid: '.length + '12345678.1\n\n'.length
  const taken = start(async function* () {
    yield 'x'.repeat(200 - overhead)
  })
  await turn()
  t.equal(taken.outcome, 'failed', 'an unnamed stream has a longer epoch')

  const named = start(
    async function* () {
      yield 'x'.repeat(200 - overhead)
    },
    { streamId: 'exact' }
  )
  const over = start(
    async function* () {
      yield 'x'.repeat(201 - overhead)
    },
    { streamId: 'over' }
  )
  await turn()
  t.equal(named.outcome, 'completed')
  t.equal(named.log.wireBytes, 200)
  t.equal(over.outcome, 'failed')
})

test('what fails a stream is told to clients by its code and logged in full', async (t) => {
  const { feed, stream, attach, lines } = createStream(t)
  const { transport } = attach(stream)
  const error = Object.assign(new Error('for everybody'), { statusCode: 429 })
  feed.push('1')
  feed.fail(error)
  await turn()
  t.strictSame(transport.controlData('stream-error'), { code: 'STREAM_FAILED', message: 'for everybody' })
  t.match(lines, [
    { level: 'error', fields: { streamId: 'a', err: error } },
    {
      level: 'info',
      fields: { streamId: 'a', outcome: 'failed', events: 1, bytes: Number, durationMs: 0, clients: 1 }
    }
  ])
})

test('an error has a sequence of its own: whoever has seen it gets the end alone', async (t) => {
  const { feed, stream, attach } = createStream(t)
  feed.push('1', '2')
  feed.fail(new Error('secret'))
  await turn()
  const { transport } = attach(stream)
  const after = attach(stream, { lastEventId: `${stream.epoch}.3` }).transport
  const before = attach(stream, { lastEventId: `${stream.epoch}.2` }).transport
  await turn()
  t.equal(transport.events.find(({ event }) => event === 'stream-error')?.id, `${stream.epoch}.3`)
  t.strictSame(after.control, ['stream-end'])
  t.strictSame(before.control, ['stream-error', 'stream-end'])
})

test('the end of a stream is one line with fixed keys and no cursor', async (t) => {
  const { clock, feed, stream, attach, lines } = createStream(t)
  attach(stream)
  attach(stream)
  feed.push('the payload')
  await turn()
  clock.advance(1_234)
  feed.end()
  await turn()
  t.equal(lines.length, 1)
  const { level, fields } = lines[0] as (typeof lines)[0]
  t.equal(level, 'info')
  t.strictSame(fields, {
    streamId: 'a',
    outcome: 'completed',
    events: 1,
    bytes: stream.log.endOffset,
    durationMs: 1_234,
    clients: 2
  })
  t.notMatch(JSON.stringify(lines), new RegExp(`payload|${stream.epoch}`))
})

test('a logger that throws what it is given takes nothing along', async (t) => {
  const { feed, stream } = createStream(t)
  feed.fail({
    get message() {
      throw new Error('hostile')
    }
  })
  await turn()
  t.equal(stream.outcome, 'failed')
})

// ── flow ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A generator that counts what was pulled. */
function counting(size: number): { handler: () => Generator<string>; made: () => number } {
  let made = 0
  return {
    handler: function* () {
      for (;;) {
        made += 1
        yield String(made).padEnd(size, '.')
      }
    },
    made: () => made
  }
}

test('bursts of one turn are one write', async (t) => {
  const { feed, stream, attach } = createStream(t)
  const { transport } = attach(stream)
  await turn()
  const before = transport.writes.length
  feed.push('1', '2', '3', '4', '5', '6', '7', '8', '9')
  await turn()
  t.equal(transport.data.length, 9)
  t.equal(transport.writes.length, before + 1)
})

test('a replay is written in slices of at most 64 KiB', async (t) => {
  const { feed, stream, attach } = createStream(t)
  feed.push(...Array.from({ length: 500 }, () => 'x'.repeat(1_000)), 'y'.repeat(300_000))
  await turn()
  const { transport } = attach(stream)
  await turnsUntil('the replay', () => transport.data.length === 501)
  t.ok(Math.max(...transport.writes) <= 65_536)
  t.ok(transport.writes.length < 40, 'many frames per write')
  t.equal(transport.data.at(-1)?.length, 300_000)
})

test('fastest: the producer is a quarter of the log ahead of its client, and no more', async (t) => {
  const { start, attach } = createRegistry(t, { ...OPTIONS, bufferBytes: 40_000, maxEventSize: 40_000 })
  const { handler } = counting(100)
  const stream = start(handler)
  const { transport, subscriber } = attach(stream, { arrival: 'started', reads: false, highWaterMark: 1 })
  await turn()
  t.equal(subscriber.offset, 0, 'its socket takes nothing')
  const ahead = stream.log.endOffset
  t.ok(ahead > 9_000 && ahead <= 10_000, `${ahead}`)
  transport.take()
  await turn()
  t.ok(stream.log.endOffset > ahead)
  t.ok(stream.log.endOffset - subscriber.offset <= 10_000)
})

test('the read-ahead is a quarter of the events, too', async (t) => {
  const { start, attach } = createRegistry(t, { ...OPTIONS, bufferSize: 40 })
  const { handler, made } = counting(1)
  const stream = start(handler)
  attach(stream, { arrival: 'started', reads: false, highWaterMark: 1 })
  await turn()
  t.equal(stream.log.lastSequence, 10)
  t.equal(made(), 11, 'one is waiting')
})

test('a single event that is larger than the read-ahead passes', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferBytes: 4_000 })
  const { transport } = attach(stream)
  feed.push('x'.repeat(3_900), 'y'.repeat(3_900), 'z')
  await turn()
  await turn()
  t.equal(transport.data.length, 3)
})

test('a client that attaches to a producer that waits for it gets everything', async (t) => {
  for (const backpressure of ['fastest', 'slowest'] as const) {
    const { start, attach } = createRegistry(t, { ...OPTIONS, bufferSize: 8, backpressure })
    const stream = start(function* () {
      for (let i = 1; i <= 30; i++) yield String(i)
    })
    const client = attach(stream, { arrival: 'started', opens: false })
    await turn()
    t.ok(stream.log.lastSequence <= 2)
    client.open()
    for (let i = 0; i < 30; i++) await turn()
    t.equal(client.transport.data.length, 30)
    t.equal(client.transport.outcome, 'end')
  }
})

test('fastest with nobody attached runs free', async (t) => {
  const { feed, stream } = createStream(t, { bufferSize: 4 })
  feed.push('1', '2', '3', '4', '5', '6')
  await turn()
  t.equal(stream.log.lastSequence, 6)
  t.equal(stream.log.firstSequence, 3)
})

test('fastest does not wait for the slow one, which is truncated when it falls out of the log', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8 })
  const fast = attach(stream)
  const slow = attach(stream, { reads: false, highWaterMark: 1 })
  for (let i = 1; i <= 20; i++) {
    feed.push(String(i))
    await turn()
  }
  t.equal(fast.transport.data.length, 20)
  slow.transport.resume()
  await turn()
  t.equal(slow.transport.outcome, 'truncated')
  t.strictSame(slow.transport.data, [], 'a position that is gone is not skipped in silence')
  const again = attach(stream, { lastEventId: slow.transport.lastEventId })
  await turn()
  t.strictSame(again.transport.controlData('stream-gap'), { reason: 'trimmed', missed: 12, resumesAt: 13 })
  t.strictSame(again.transport.data, ['13', '14', '15', '16', '17', '18', '19', '20'])
})

test('slowest waits for the slow one, and nobody misses anything', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8, backpressure: 'slowest' })
  const fast = attach(stream)
  const slow = attach(stream, { reads: false, highWaterMark: 1 })
  feed.push(...Array.from({ length: 20 }, (_, i) => String(i)))
  feed.end()
  for (let i = 0; i < 10; i++) await turn()
  t.equal(stream.log.lastSequence, 2)
  t.equal(fast.transport.data.length, 2)
  slow.transport.resume()
  for (let i = 0; i < 30; i++) await turn()
  t.equal(fast.transport.data.length, 20)
  t.equal(slow.transport.data.length, 20)
})

test('slowest goes on when the slow one leaves', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8, backpressure: 'slowest' })
  attach(stream)
  const slow = attach(stream, { reads: false, highWaterMark: 1 })
  feed.push(...Array.from({ length: 20 }, (_, i) => String(i)))
  await turn()
  t.equal(stream.log.lastSequence, 2)
  slow.drop()
  for (let i = 0; i < 30; i++) await turn()
  t.equal(stream.log.lastSequence, 20)
})

test('slowest with nobody attached waits where the last client stood', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8, backpressure: 'slowest' })
  const first = attach(stream)
  feed.push('1')
  await turn()
  first.drop()
  await turn()
  feed.push(...Array.from({ length: 10 }, (_, i) => String(i + 2)))
  await turn()
  t.equal(stream.log.lastSequence, 3, 'a quarter of 8 ahead')
  const second = attach(stream, { lastEventId: first.transport.lastEventId })
  for (let i = 0; i < 20; i++) await turn()
  t.strictSame(second.transport.data, ['2', '3', '4', '5', '6', '7', '8', '9', '10', '11'])
})

test('slowest that nobody ever read waits when the log is full, and loses nothing', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8, backpressure: 'slowest' })
  feed.push(...Array.from({ length: 20 }, (_, i) => String(i + 1)))
  feed.end()
  await turn()
  t.equal(stream.log.lastSequence, 8)
  const { transport } = attach(stream)
  for (let i = 0; i < 30; i++) await turn()
  t.equal(transport.data.length, 20)
  t.strictSame(transport.control, ['stream-start', 'stream-end'])
})

test('none waits for nobody', async (t) => {
  const { feed, stream, attach } = createStream(t, { bufferSize: 8, backpressure: 'none' })
  attach(stream, { reads: false, highWaterMark: 1 })
  feed.push(...Array.from({ length: 20 }, (_, i) => String(i + 1)))
  await turn()
  t.equal(stream.log.lastSequence, 20)
})

test('a producer that fills its log does not starve the clients of its own turn', async (t) => {
  const { start, attach } = createRegistry(t, { ...OPTIONS, backpressure: 'none', bufferSize: 1_000_000 })
  const { handler } = counting(1)
  const stream = start(handler)
  const { transport } = attach(stream)
  await turn()
  await turn()
  t.ok(transport.data.length > 0)
  stream.abort('aborted', 'enough')
})

// ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

test('the limits of the log hold after every event', async (t) => {
  const { feed, stream } = createStream(t, { bufferSize: 10, bufferBytes: 1_000 })
  for (let i = 0; i < 50; i++) {
    feed.push('x'.repeat((i * 37) % 400))
    await turn()
    t.ok(stream.log.events <= 10 && stream.log.wireBytes <= 1_000)
  }
  t.equal(stream.log.lastSequence, 50)
})

test('a client that takes nothing pins no more than the log', async (t) => {
  const { feed, stream, attach, registry } = createStream(t, { bufferBytes: 8_000, backpressure: 'none' })
  const { transport } = attach(stream, { reads: false, highWaterMark: 1 })
  transport.take()
  for (let i = 0; i < 100; i++) {
    feed.push('y'.repeat(900))
    await turn()
    t.ok(registry.stats().bufferedBytes < 20_000)
  }
  t.equal(transport.outcome, 'truncated')
})

test('a finished stream holds no more than it needs', async (t) => {
  const { feed, stream, registry } = createStream(t)
  feed.push('x'.repeat(1_000), 'y')
  await turn()
  feed.end()
  await turn()
  t.equal(registry.stats().bufferedBytes, stream.log.wireBytes + 2 * 4)
})

test('a finished stream holds neither its handler, nor its signal, nor the async context of its request', async (t) => {
  const fixture = createRegistry(t, OPTIONS)
  const storage = new AsyncLocalStorage<object>()
  const controller = new AbortController()
  const references: WeakRef<object>[] = []
  const keep = (value: object): void => void references.push(new WeakRef(value))
  const start = (): EventStream => {
    const store = { request: 'secret' }
    keep(store)
    return storage.run(store, () => {
      const handler = async function* (signal: AbortSignal): AsyncGenerator<string> {
        keep(signal)
        yield '1'
      }
      const map = (value: unknown): string => String(value)
      keep(handler)
      keep(map)
      return fixture.start(handler, { streamId: 'a', signal: controller.signal, map })
    })
  }
  const stream = start()
  await turn()
  await turn()
  t.equal(stream.outcome, 'completed')
  await collectGarbage()
  t.equal(references.length, 4)
  t.strictSame(
    references.map((reference) => reference.deref()),
    [undefined, undefined, undefined, undefined]
  )
  t.equal(fixture.registry.find('a', undefined), stream, 'while the stream itself is retained')
})

test('a removed stream is held by nobody', async (t) => {
  const fixture = createRegistry(t, OPTIONS)
  const reference = await (async () => {
    const feed = new Feed()
    const stream = fixture.start(feed.handler, { streamId: 'a' })
    const client: FakeClient = fixture.attach(stream)
    feed.push('1')
    feed.end()
    await turn()
    t.equal(client.transport.outcome, 'end')
    fixture.clock.advance(TTL)
    return new WeakRef(stream)
  })()
  await turn()
  await collectGarbage()
  t.equal(reference.deref(), undefined)
})

test('a stream that a reader finishes while it takes its bytes ends for those before it, too', async (t) => {
  const { stream, feed, attach } = createStream(t)
  const first = attach(stream)
  const second = attach(stream)
  const write = second.transport.writeSlice.bind(second.transport)
  second.transport.writeSlice = (slice) => {
    stream.abort('aborted', 'enough')
    return write(slice)
  }
  feed.push('a')
  await turn()
  await turn()
  for (const { transport } of [first, second]) t.match(transport.text, /STREAM_ABORTED/)
})

test('what comes in one turn is brought to all readers in one pass, and none follows it', async (t) => {
  const { registry, stream, feed, attach } = createStream(t)
  const clients = Array.from({ length: 3 }, () => attach(stream))
  await turn()
  let passes = 0
  const atEnd = registry.turn.atEnd.bind(registry.turn)
  registry.turn.atEnd = (task) => {
    if (task === stream) passes += 1
    atEnd(task)
  }
  feed.push(...Array.from({ length: 8 }, () => 'x'))
  for (let turns = 0; turns < 3; turns++) await turn()
  t.equal(passes, 1)
  for (const { transport } of clients) t.equal(transport.data.length, 8)
})
