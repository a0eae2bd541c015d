import { test } from 'tap'
import type { Batch } from '../src/event-log.ts'
import { EventStream } from '../src/event-stream.ts'
import type { Registry } from '../src/registry.ts'
import { resolvePluginOptions, resolveStreamCall } from '../src/settings.ts'
import type { StreamContext } from '../src/stream-source.ts'
import { createRegistry } from './helpers/create-registry.ts'
import { Feed } from './helpers/feed.ts'
import { turn } from './helpers/turns.ts'

const QUIET = { heartbeatInterval: 0, stallTimeout: Infinity } as const

/** Every stream that was ever started is counted once, whatever became of it. */
function sumOf(registry: Registry): number {
  const { running, completed, failed, aborted, evicted } = registry.stats()
  return running + completed + failed + aborted + evicted
}

// ── find and start ───────────────────────────────────────────────────────────────────────────────────────────────────

test('a name that exists leads to its stream, and nothing is started', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const feed = new Feed()
  const first = start(feed.handler, { streamId: 'a' })
  t.equal(start(feed.handler, { streamId: 'a' }), first)
  t.equal(feed.runs, 1)
  t.match(registry.stats(), { started: 1, running: 1 })
})

test('a finished stream is found too: a reconnect never starts a second run', async (t) => {
  const { start } = createRegistry(t, QUIET)
  const feed = new Feed()
  const first = start(feed.handler, { streamId: 'a' })
  feed.end()
  await turn()
  t.equal(start(feed.handler, { streamId: 'a' }), first)
  t.equal(feed.runs, 1)
})

test('two owners with one name have two streams', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const feed = new Feed()
  const names = [undefined, 'alice', 'bob', 'a', ' a', 'a '].map((owner) =>
    start(feed.handler, { streamId: 'a', owner })
  )
  t.equal(new Set(names).size, 6)
  t.equal(registry.find('a', 'alice'), names[1])
  t.equal(registry.find('a', 'nobody'), undefined)
})

test('unnamed streams are all different, and their public ids do not show their epochs', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const feed = new Feed()
  const first = start(feed.handler)
  const second = start(feed.handler)
  t.not(first.streamId, second.streamId)
  t.equal(registry.find(first.streamId, undefined), first)
  t.notOk(first.streamId.includes(first.epoch) || first.epoch.includes(first.streamId))
})

test('a handler that throws leaves no stream and evicts nobody', async (t) => {
  const { registry, clock, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1 })
  const kept = start(new Feed().handler, { streamId: 'kept' })
  const error = new Error('mine')
  t.throws(
    () =>
      start(
        () => {
          throw error
        },
        { streamId: 'a' }
      ),
    error
  )
  t.equal(registry.find('kept', undefined), kept)
  t.equal(registry.find('a', undefined), undefined)
  t.notOk(kept.isFinished)
  t.equal(clock.pending, 1)
  t.match(registry.stats(), { started: 1, running: 1, removedForCapacity: 0 })
})

test('a handler that starts the stream of its own name attaches to that one', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1 })
  const inner = new Feed()
  let isClosed = false
  const stream = start(
    () => {
      start(inner.handler, { streamId: 'a' })
      return {
        [Symbol.asyncIterator]: () => ({
          next: async () => ({ done: true }),
          return: async () => {
            isClosed = true
            return {}
          }
        })
      }
    },
    { streamId: 'a' }
  )
  inner.push('1')
  await turn()
  t.equal(stream, registry.find('a', undefined))
  t.equal(stream.log.lastSequence, 1)
  t.ok(isClosed, 'what the outer one made is closed')
  t.match(registry.stats(), { started: 1, running: 1, removedForCapacity: 0 })
  t.equal(registry.producers, 1)
})

test('a handler that starts the stream of its own name and rejects crashes nothing', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const inner = new Feed()
  start(
    async () => {
      start(inner.handler, { streamId: 'a' })
      await null
      throw new Error('nobody wants to know')
    },
    { streamId: 'a' }
  )
  await turn()
  t.match(registry.stats(), { started: 1, running: 1, failed: 0 })
})

test('a handler that fills the registry evicts as anybody would', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 2 })
  const feed = new Feed()
  const outer = start(
    (signal) => {
      start(feed.handler, { streamId: 'b' })
      start(feed.handler, { streamId: 'c' })
      return feed.handler(signal)
    },
    { streamId: 'a' }
  )
  await turn()
  t.equal(registry.size, 2)
  t.equal(registry.find('a', undefined), outer)
  t.match(registry.stats(), { started: 3, running: 2, evicted: 1 })
})

test('a handler that fills a registry which rejects is refused itself, and its generator is closed', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1, whenFull: 'reject' })
  let isAborted = false
  t.throws(
    () =>
      start(
        (signal) => {
          signal.addEventListener('abort', () => (isAborted = true))
          start(new Feed().handler, { streamId: 'inner' })
          return []
        },
        { streamId: 'outer' }
      ),
    { code: 'FST_ERR_RSSE_REGISTRY_FULL' }
  )
  await turn()
  t.ok(isAborted)
  t.equal(registry.find('outer', undefined), undefined)
  t.match(registry.stats(), { started: 1, running: 1 })
})

test('a handler learns its stream, its owner and a logger', async (t) => {
  const { start, lines } = createRegistry(t, QUIET)
  let seen: StreamContext | undefined
  const stream = start(
    (_, context) => {
      seen = context
      context.log.info({}, 'from the handler')
      return []
    },
    { streamId: 'a', owner: 'alice' }
  )
  t.match(seen, { streamId: 'a', owner: 'alice' })
  t.equal(seen?.log, seen?.log)
  t.match(lines[0], { fields: { streamId: 'a' }, message: 'from the handler' })
  t.equal(stream.owner, 'alice')
})

// ── capacity ─────────────────────────────────────────────────────────────────────────────────────────────────────────

test('at capacity the oldest finished stream gives way first', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 3 })
  const feeds = { a: new Feed(), b: new Feed(), c: new Feed() }
  for (const [streamId, feed] of Object.entries(feeds)) start(feed.handler, { streamId })
  feeds.c.end()
  await turn()
  feeds.b.end()
  await turn()
  const names = (): string[] => [...registry.streams].map(({ streamId }) => streamId)
  start(new Feed().handler, { streamId: 'd' })
  t.strictSame(names(), ['a', 'b', 'd'])
  start(new Feed().handler, { streamId: 'e' })
  t.strictSame(names(), ['a', 'd', 'e'])
  t.notOk(registry.find('a', undefined)?.isFinished, 'a running one stays while a finished one can go')
  t.match(registry.stats(), { removedForCapacity: 2, evicted: 0, completed: 2 })
})

test('a finished stream with a client gives way after those without, and its client gets the rest', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...QUIET, maxActiveStreams: 2 })
  const first = new Feed()
  const second = new Feed()
  const read = start(first.handler, { streamId: 'read' })
  start(second.handler, { streamId: 'alone' })
  first.push('x'.repeat(20_000), 'y')
  first.end()
  await turn()
  const { transport } = attach(read, { reads: false, highWaterMark: 1 })
  await turn()
  second.end()
  await turn()
  start(new Feed().handler, { streamId: 'b' })
  t.equal(registry.find('alone', undefined), undefined)
  t.equal(registry.find('read', undefined), read)
  start(new Feed().handler, { streamId: 'c' })
  t.equal(registry.find('read', undefined), undefined)
  const before = registry.stats().bufferedBytes
  t.ok(before > 20_000, 'its bytes count until they are released')
  t.match(registry.stats(), { clients: 1 })
  transport.resume()
  await turn()
  await turn()
  t.equal(transport.outcome, 'end')
  t.equal(transport.data.length, 2)
  t.ok(registry.stats().bufferedBytes < 2_000)
})

test('where all run, the one that has been alone longest gives way, with its reason and its word to the clients', async (t) => {
  const { registry, clock, start, attach, lines } = createRegistry(t, { ...QUIET, maxActiveStreams: 3 })
  const feeds = { a: new Feed(), b: new Feed(), c: new Feed() }
  const a = start(feeds.a.handler, { streamId: 'a' })
  start(feeds.b.handler, { streamId: 'b' })
  start(feeds.c.handler, { streamId: 'c' })
  const client = attach(a)
  await turn()
  start(new Feed().handler, { streamId: 'd' })
  t.equal(registry.find('b', undefined), undefined, 'the orphan that is older than c')
  t.type(feeds.b.signal?.reason, DOMException)
  t.match(feeds.b.signal?.reason, { name: 'AbortError', message: 'Stream evicted' })
  await turn()
  t.equal(feeds.b.closed, 1)
  const e = start(new Feed().handler, { streamId: 'e' })
  const f = start(new Feed().handler, { streamId: 'f' })
  t.ok(registry.find('a', undefined), 'one with a client stays while an orphan can go')
  const again = attach(e)
  const third = attach(f)
  start(new Feed().handler, { streamId: 'g' })
  await turn()
  t.equal(client.transport.outcome, 'end')
  t.match(client.transport.controlData('stream-error'), { code: 'STREAM_EVICTED' })
  t.strictSame(client.transport.controlData('stream-end'), { outcome: 'evicted' })
  t.equal(again.transport.outcome, undefined)
  t.equal(third.transport.outcome, undefined)
  t.equal(sumOf(registry), registry.stats().started)
  t.match(registry.stats(), { evicted: 4, running: 3, removedForCapacity: 4 })
  t.equal(clock.pending, 1, 'the orphan timer of g: the evicted have none')
  t.equal(lines.filter(({ fields }) => fields['outcome'] === 'evicted').length, 4)
})

test('of running streams with clients the one whose clients changed longest ago gives way', async (t) => {
  const { registry, start, attach } = createRegistry(t, { ...QUIET, maxActiveStreams: 2 })
  const a = start(new Feed().handler, { streamId: 'a' })
  const b = start(new Feed().handler, { streamId: 'b' })
  attach(a)
  attach(b)
  const second = attach(a)
  second.drop()
  await turn()
  start(new Feed().handler, { streamId: 'c' })
  t.notOk(registry.find('b', undefined))
  t.ok(registry.find('a', undefined))
})

test('inserting a key that exists evicts nobody', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 2 })
  start(new Feed().handler, { streamId: 'a' })
  start(new Feed().handler, { streamId: 'b' })
  start(new Feed().handler, { streamId: 'a' })
  start(new Feed().handler, { streamId: 'b' })
  t.equal(registry.size, 2)
  t.match(registry.stats(), { removedForCapacity: 0, evicted: 0, started: 2 })
})

test('an evicted stream whose generator ignores its signal counts as running until it is let go', async (t) => {
  const { registry, clock, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1, abortTimeout: 1_000 })
  const deaf = new Feed({ ignoresSignal: true })
  start(deaf.handler, { streamId: 'a', orphanTimeout: Infinity })
  await turn()
  start(new Feed().handler, { streamId: 'b', orphanTimeout: Infinity })
  await turn()
  t.match(registry.stats(), { started: 2, running: 2, evicted: 0 })
  t.equal(registry.size, 1)
  t.equal(clock.pending, 1)
  clock.advance(1_000)
  t.match(registry.stats(), { started: 2, running: 1, evicted: 1 })
  t.equal(clock.pending, 0)
  t.equal(registry.allStreams().length, 1)
})

test('an abort listener may start streams while its own is evicted', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 2 })
  let starts = 0
  const greedy = (signal: AbortSignal): AsyncGenerator<never> => {
    signal.addEventListener('abort', () => {
      if (++starts < 20) start(greedy, { streamId: `greedy-${starts}` })
    })
    return (async function* () {
      await new Promise((_, reject) => signal.addEventListener('abort', reject))
    })()
  }
  start(greedy, { streamId: 'a' })
  start(greedy, { streamId: 'b' })
  start(greedy, { streamId: 'c' })
  for (let i = 0; i < 30; i++) await turn()
  t.ok(registry.size <= 2)
  t.equal(registry.stats().started, sumOf(registry))
})

test('a stream that is evicted while another is evicted gives everything back', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 1 })
  const b = new Feed()
  start(
    async function* (signal) {
      signal.addEventListener('abort', () => start(new Feed().handler, { streamId: 'c' }))
      await new Promise((_, reject) => signal.addEventListener('abort', reject))
      yield 'never'
    },
    { streamId: 'a' }
  )
  await turn()
  start(b.handler, { streamId: 'b' })
  b.push('x'.repeat(1_000), 'y')
  for (let i = 0; i < 5; i++) await turn()
  t.equal(registry.find('b', undefined), undefined, 'c has taken its place')
  t.equal(b.closed, b.runs)
  t.match(registry.stats(), { started: 3, running: 1, evicted: 2, bufferedBytes: 0, bufferedEvents: 0 })
  t.equal(registry.allStreams().length, 1)
})

test('whenFull reject refuses the newcomer, but a finished stream gives way first', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxActiveStreams: 2, whenFull: 'reject' })
  const feed = new Feed()
  const refused = new Feed()
  start(feed.handler, { streamId: 'a' })
  start(new Feed().handler, { streamId: 'b' })
  t.throws(() => start(refused.handler, { streamId: 'c' }), {
    code: 'FST_ERR_RSSE_REGISTRY_FULL',
    statusCode: 503,
    message: /maxActiveStreams \(2\)/
  })
  t.equal(refused.runs, 0)
  t.doesNotThrow(() => start(refused.handler, { streamId: 'a' }), 'who exists is found')
  feed.end()
  await turn()
  start(refused.handler, { streamId: 'c' })
  t.equal(registry.find('a', undefined), undefined)
  t.equal(refused.runs, 1)
})

test('whenFull reject refuses the newcomer where running streams hold all the memory', async (t) => {
  const { start } = createRegistry(t, {
    ...QUIET,
    maxTotalBufferBytes: 4_096,
    bufferBytes: 100_000,
    whenFull: 'reject',
    backpressure: 'slowest'
  })
  const feed = new Feed()
  start(feed.handler, { streamId: 'a', backpressure: 'none' })
  feed.push('x'.repeat(20_000))
  await turn()
  t.throws(() => start(new Feed().handler, { streamId: 'b' }), {
    code: 'FST_ERR_RSSE_REGISTRY_FULL',
    message: /maxTotalBufferBytes/
  })
})

test('maxStreamsPerOwner counts the running streams of one owner', async (t) => {
  const { start } = createRegistry(t, { ...QUIET, maxStreamsPerOwner: 2 })
  const feed = new Feed()
  const refusal = { code: 'FST_ERR_RSSE_TOO_MANY_STREAMS', statusCode: 503 }
  start(feed.handler, { streamId: 'a', owner: 'alice' })
  start(new Feed().handler, { streamId: 'b', owner: 'alice' })
  t.throws(() => start(new Feed().handler, { streamId: 'c', owner: 'alice' }), refusal)
  t.doesNotThrow(() => start(new Feed().handler, { streamId: 'c', owner: 'bob' }))
  t.doesNotThrow(() => start(new Feed().handler, { streamId: 'a', owner: 'alice' }), 'who exists is found')
  feed.end()
  await turn()
  start(new Feed().handler, { streamId: 'c', owner: 'alice' })
  t.throws(() => start(new Feed().handler, { streamId: 'd', owner: 'alice' }), refusal)
  start(new Feed().handler, { streamId: 'x' })
  start(new Feed().handler, { streamId: 'y' })
  t.throws(() => start(new Feed().handler, { streamId: 'z' }), refusal, 'those without an owner count together')
})

test('an owner who is refused evicts nobody', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxStreamsPerOwner: 1, maxActiveStreams: 1 })
  start(new Feed().handler, { streamId: 'a', owner: 'alice' })
  t.throws(() => start(new Feed().handler, { streamId: 'b', owner: 'alice' }))
  t.equal(registry.size, 1)
  t.match(registry.stats(), { removedForCapacity: 0, running: 1 })
})

test('maxClientsPerStream refuses one more, until one leaves', async (t) => {
  const { start, attach, registry } = createRegistry(t, { ...QUIET, maxClientsPerStream: 2 })
  const stream = start(new Feed().handler, { streamId: 'a' })
  const client = attach(stream)
  attach(stream)
  t.throws(() => attach(stream), { code: 'FST_ERR_RSSE_TOO_MANY_CLIENTS', statusCode: 503 })
  t.match(registry.stats(), { clients: 2, attached: 2 })
  client.drop()
  await turn()
  t.doesNotThrow(() => attach(stream))
})

// ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

test('an append over maxTotalBufferBytes removes finished streams, oldest first, and aborts nothing', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxTotalBufferBytes: 40_000, bufferBytes: 1_000_000 })
  for (const streamId of ['a', 'b']) {
    const feed = new Feed()
    start(feed.handler, { streamId })
    feed.push('x'.repeat(15_000))
    feed.end()
    await turn()
  }
  const feed = new Feed()
  const running = start(feed.handler, { streamId: 'running' })
  for (let i = 0; i < 10; i++) {
    feed.push('y'.repeat(1_000))
    await turn()
    t.ok(registry.stats().bufferedBytes <= 40_000)
  }
  t.equal(registry.find('a', undefined), undefined)
  for (let i = 0; i < 100; i++) {
    feed.push('y'.repeat(1_000))
    await turn()
    t.ok(registry.stats().bufferedBytes <= 40_000)
  }
  t.equal(registry.find('b', undefined), undefined)
  t.notOk(running.isFinished)
  t.equal(running.log.lastSequence, 110)
  t.ok(running.log.firstSequence > 1, 'then it trims its own log')
  t.match(registry.stats(), { removedForCapacity: 2, evicted: 0, aborted: 0 })
})

test('a producer that waits for memory goes on when a stream finishes that can give way', async (t) => {
  const { start } = createRegistry(t, { ...QUIET, maxTotalBufferBytes: 300_000, bufferBytes: 1_000_000 })
  const [feed, other] = [new Feed(), new Feed()]
  const stream = start(feed.handler, { streamId: 'a', backpressure: 'slowest' })
  start(other.handler, { streamId: 'b' })
  feed.push('x'.repeat(90_000))
  // As large as its segment: nothing of it comes free when it finishes.
  other.push('y'.repeat(150_000))
  await turn()
  feed.push('x'.repeat(90_000))
  await turn()
  t.equal(stream.log.lastSequence, 1)
  other.end()
  await turn()
  await turn()
  t.equal(stream.log.lastSequence, 2)
})

test('running streams that share the memory trim their own logs', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxTotalBufferBytes: 50_000, bufferBytes: 1_000_000 })
  const feeds = [new Feed(), new Feed(), new Feed()]
  const streams = feeds.map((feed) => start(feed.handler))
  for (let i = 0; i < 50; i++) {
    for (const feed of feeds) feed.push('y'.repeat(1_500))
    await turn()
    // A stream keeps at least the event that it appends.
    t.ok(registry.stats().bufferedBytes <= 50_000 + 3 * 2_048)
  }
  for (const stream of streams) t.equal(stream.log.lastSequence, 50)
})

test('with slowest the producer waits for memory in place of trimming what a client has not read', async (t) => {
  const { registry, start, attach } = createRegistry(t, {
    ...QUIET,
    maxTotalBufferBytes: 30_000,
    bufferBytes: 1_000_000,
    backpressure: 'slowest'
  })
  const feed = new Feed()
  const stream = start(feed.handler)
  const { transport } = attach(stream, { reads: false, highWaterMark: 1 })
  for (let i = 0; i < 60; i++) feed.push(String(i).padEnd(1_000, '.'))
  for (let i = 0; i < 10; i++) await turn()
  t.ok(stream.log.lastSequence < 60)
  t.equal(stream.log.firstSequence, 1)
  t.ok(registry.stats().bufferedBytes <= 30_000)
  transport.resume()
  for (let i = 0; i < 200; i++) await turn()
  t.equal(transport.data.length, 60)
})

test('a new stream makes room for itself where memory is over its limit', async (t) => {
  const { registry, start } = createRegistry(t, { ...QUIET, maxTotalBufferBytes: 1_000, bufferBytes: 100_000 })
  const feed = new Feed()
  start(feed.handler, { streamId: 'a' })
  feed.push('x'.repeat(20_000))
  await turn()
  t.ok(registry.stats().bufferedBytes > 20_000, 'a single event is kept, however large')
  start(new Feed().handler, { streamId: 'b' })
  await turn()
  t.equal(registry.find('a', undefined), undefined)
  t.equal(registry.stats().bufferedBytes, 0)
  t.match(registry.stats(), { evicted: 1 })
})

// ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

test('the counters tell what happened', async (t) => {
  const { registry, clock, start, attach } = createRegistry(t, {
    ...QUIET,
    bufferSize: 2,
    bufferTTL: 1_000,
    orphanTimeout: 2_000
  })
  const feeds = [new Feed(), new Feed(), new Feed(), new Feed()] as const
  const [a, c] = [start(feeds[0].handler, { streamId: 'a' }), start(feeds[1].handler, { streamId: 'c' })]
  start(feeds[2].handler, { streamId: 'b' })
  start(feeds[3].handler, { streamId: 'd' })
  feeds[0].push('1', '2', '3')
  await turn()
  const first = attach(a, { arrival: 'started' })
  await turn()
  attach(a, { lastEventId: first.transport.lastEventId })
  attach(a, { lastEventId: 'other.1' })
  attach(a, { lastEventId: `${a.epoch}.0` })
  attach(c, { arrival: 'restarted' })
  await turn()
  t.match(registry.stats(), { clients: 5, attached: 5, resumed: 1, gaps: 4, events: 3, bufferedEvents: 2 })
  t.equal(registry.stats().replayedEvents, 0 + 2 + 2)
  feeds[0].end()
  feeds[1].fail(new Error('x'))
  await turn()
  registry.abortAll('stop')
  await turn()
  t.match(registry.stats(), { started: 4, running: 0, completed: 1, failed: 1, aborted: 2, finished: 4, clients: 0 })
  clock.advance(1_000)
  t.match(registry.stats(), { finished: 0, expired: 4, bufferedBytes: 0, bufferedEvents: 0 })
  t.equal(registry.size, 0)
  t.equal(sumOf(registry), registry.stats().started)
})

test('abortAll says how many it stopped', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  const feed = new Feed()
  start(feed.handler, { streamId: 'a' })
  start(new Feed().handler, { streamId: 'b' })
  feed.end()
  await turn()
  t.equal(registry.abortAll('stop'), 1)
  t.equal(registry.abortAll('stop'), 0)
})

test('a cursor finds an unnamed stream on its own route and inside its owner only', async (t) => {
  const { registry, start } = createRegistry(t, QUIET)
  // The fixture starts streams as `sseStreams.start()` does: of no route.
  const stream = start(new Feed().handler, { owner: 'alice' })
  const cursor = { kind: 'position', epoch: stream.epoch, sequence: 0 } as const
  t.equal(registry.findByCursor(cursor, 'alice', 'GET /a'), undefined, 'no route made it')
  t.equal(registry.findByCursor(cursor, undefined, 'GET /a'), undefined)
  t.equal(registry.findByCursor({ kind: 'none' }, 'alice', 'GET /a'), undefined)
  t.equal(registry.findByCursor({ kind: 'malformed' }, 'alice', 'GET /a'), undefined)
})

// ── memory that others hold ──────────────────────────────────────────────────────────────────────────────────────────

const SCARCE = { ...QUIET, maxTotalBufferBytes: 4_096, bufferBytes: 100_000 } as const

test('under whenFull reject a running stream never gives way, also where a finished one is not enough', async (t) => {
  const { registry, start } = createRegistry(t, { ...SCARCE, whenFull: 'reject' })
  const [feed, other] = [new Feed(), new Feed()]
  const large = start(feed.handler, { streamId: 'large' })
  start(other.handler, { streamId: 'finished' })
  feed.push('x'.repeat(20_000))
  await turn()
  other.end()
  await turn()
  t.throws(() => start(new Feed().handler, { streamId: 'b' }), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
  await turn()
  t.notOk(large.isFinished)
  t.ok(registry.find('finished', undefined), 'nothing was evicted in vain')
})

test('a producer that waits for memory goes on once another stream gives it back', async (t) => {
  const { registry, start } = createRegistry(t, SCARCE)
  const [other, feed] = [new Feed(), new Feed()]
  const large = start(other.handler, { streamId: 'large' })
  const waiting = start(feed.handler, { streamId: 'waiting', backpressure: 'slowest' })
  feed.push('x'.repeat(100))
  await turn()
  other.push('x'.repeat(20_000))
  await turn()
  feed.push(...Array.from({ length: 9 }, () => 'x'.repeat(100)))
  await turn()
  t.ok(waiting.log.lastSequence < 10, 'it waits')
  other.end()
  await turn()
  registry.drop(large)
  await turn()
  await turn()
  t.equal(waiting.log.lastSequence, 10)
})

// ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function addReplica(registry: Registry): EventStream {
  const call = resolveStreamCall(undefined, resolvePluginOptions({ bufferTTL: 5_000 }))
  const settings = { ...call.stream, maxBytes: Infinity, maxEvents: Infinity, backpressure: 'none' } as const
  const identity = { streamId: 'replica', owner: undefined, epoch: 'e', route: undefined, startedAt: 0 }
  const stream = new EventStream(identity, settings, registry, { firstSequence: 1 })
  const feeder = { isWaiting: false, isReleased: false, begin() {}, resume() {}, finish() {}, abort() {}, letGo() {} }
  stream.follow(feeder)
  registry.addReplica(stream)
  return stream
}

function batchOf(firstSequence: number): Batch {
  return { firstSequence, frames: Buffer.alloc(6_000, 'x'), lengths: [2_000, 2_000, 2_000] }
}

test('a replica that is being loaded neither expires nor gives way to its own events', async (t) => {
  const { registry, clock, start } = createRegistry(t, SCARCE)
  const feed = new Feed()
  start(feed.handler, { streamId: 'a' })
  const replica = addReplica(registry)
  replica.appendBatch(batchOf(1))
  feed.push('x'.repeat(1_000))
  await turn()
  clock.advance(20_000)
  replica.appendBatch(batchOf(4))
  t.equal(registry.find('replica', undefined), replica)
  replica.onLoaded()
  clock.advance(5_000)
  t.equal(registry.find('replica', undefined), undefined, 'nobody came')
  t.match(registry.stats(), { replicas: 1 }, 'its feeder has not let go')
})

test('under whenFull reject memory that a replica takes while it is loaded is not there for a newcomer', async (t) => {
  const { registry, start } = createRegistry(t, { ...SCARCE, whenFull: 'reject' })
  const replica = addReplica(registry)
  replica.appendBatch(batchOf(1))
  t.throws(() => start(new Feed().handler, { streamId: 'a' }), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
  replica.onLoaded()
  start(new Feed().handler, { streamId: 'a' })
  t.equal(registry.find('replica', undefined), undefined, 'it gives way once it is there')
})

test('a replica that gives way to its own events leaves nothing behind', async (t) => {
  const { registry, start } = createRegistry(t, SCARCE)
  const feed = new Feed()
  start(feed.handler, { streamId: 'a' })
  feed.push('x'.repeat(2_000))
  await turn()
  const { bufferedBytes, bufferedEvents } = registry.stats()
  const replica = addReplica(registry)
  replica.onLoaded()
  replica.appendBatch(batchOf(1))
  t.equal(registry.find('replica', undefined), undefined)
  t.match(registry.stats(), { bufferedBytes, bufferedEvents })
})

test('after a shutdown has begun nothing is taken in', async (t) => {
  const { registry } = createRegistry(t, QUIET)
  void registry.close()
  t.throws(() => addReplica(registry), { code: 'FST_ERR_RSSE_SHUTTING_DOWN' })
})
