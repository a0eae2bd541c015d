import { test, type Test } from 'tap'
import { StoreInvalidError } from '../src/errors.ts'
import type { EventStream } from '../src/event-stream.ts'
import type { StreamPluginOptions } from '../src/options.ts'
import { resolvePluginOptions } from '../src/settings.ts'
import { SharedStreams } from '../src/shared-streams.ts'
import type { FakeClient } from './helpers/create-registry.ts'
import { createDeferred } from './helpers/deferred.ts'
import { Feed } from './helpers/feed.ts'
import { refuse, type StoreCall } from './helpers/memory-store.ts'
import { createRecordingLog } from './helpers/recording-log.ts'
import {
  createSharedSystem,
  LEASE_MS,
  POLL_MS,
  STEP_MS,
  type Instance,
  type SharedSystem
} from './helpers/shared-system.ts'
import { turn } from './helpers/turns.ts'

interface Watched extends SharedSystem {
  readonly home: Instance
  readonly other: Instance
  readonly feed: Feed
  readonly stream: EventStream
  readonly client: FakeClient
}

/** Two instances of which the first is the home of a stream whose only client is at the second. */
async function watchedElsewhere(t: Test, options: StreamPluginOptions = {}): Promise<Watched> {
  const system = createSharedSystem(t)
  const [home, other] = [await system.connect(options), await system.connect()]
  const feed = new Feed()
  const stream = await home.start(feed, 'a')
  feed.push('1')
  await turn()
  const client = other.attach(await other.find('a'))
  await system.pass(STEP_MS)
  return { ...system, home, other, feed, stream, client }
}

test('a long stream that never pauses is found all the same', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const [home, other] = [await connect(), await connect()]
  const feed = new Feed()
  await home.start(feed, 'a')
  for (let count = 0; count < 3; count++) feed.push('x'.repeat(600_000))
  await pass(STEP_MS)
  let reads = 0
  // Too large to come with the news, and there while a read is under way.
  other.store.onAnswer = async ({ name }) => {
    if (name !== 'read' || ++reads > 50) return
    feed.push('y'.repeat(10_000))
    for (let count = 0; count < 5; count++) await turn()
  }
  const stream = await other.find('a')
  t.ok(stream.log.lastSequence >= 3)
  t.ok(reads < 10, `${reads} reads`)
})

// ── beats and the death of a home ────────────────────────────────────────────────────────────────────────────────────

test('no home is silent for longer than a third of its lease', async (t) => {
  const { clock, connect, pass } = createSharedSystem(t)
  const home = await connect()
  const saidAt = new Map<string, number>()
  let longestMs = 0
  home.store.onCall = ({ name, address: { streamId } }: StoreCall) => {
    if (name !== 'create' && name !== 'append') return
    const now = clock.now()
    longestMs = Math.max(longestMs, now - (saidAt.get(streamId) ?? now))
    saidAt.set(streamId, now)
  }
  for (let started = 0; started < 20; started++) {
    const feed = new Feed()
    await home.start(feed, `stream-${started}`)
    feed.push('1')
    await pass(7 * STEP_MS)
  }
  await pass(3 * LEASE_MS)
  for (const at of saidAt.values()) longestMs = Math.max(longestMs, clock.now() - at)
  t.ok(longestMs > 0 && longestMs <= LEASE_MS / 3, `${longestMs} ms`)
})

for (const hasNews of [true, false]) {
  test(`a client elsewhere learns of a dead home within a lease and a poll, ${hasNews ? 'with' : 'without'} news`, async (t) => {
    const { pass, home, other, client } = await watchedElsewhere(t)
    other.store.hasNews = () => hasNews
    await pass(2 * LEASE_MS)
    home.store.goDown()
    await pass((LEASE_MS * 2) / 3 - STEP_MS)
    t.strictSame(client.transport.control, ['stream-start'], 'not early: it may have spoken just before')
    await pass(LEASE_MS / 3 + 1.5 * POLL_MS + STEP_MS)
    t.strictSame(client.transport.control, ['stream-start', 'stream-error', 'stream-end'])
    t.match(client.transport.controlData('stream-error'), { code: 'STREAM_LOST' })
  })
}

test('an instance that has just begun does not judge homes by an outage that it has not seen', async (t) => {
  const { connect, pass, home, other, feed } = await watchedElsewhere(t)
  home.store.goDown()
  other.store.goDown()
  await pass(2 * LEASE_MS)
  const fresh = await connect()
  const look = (): unknown => fresh.streams.look({ streamId: 'a', owner: undefined })
  t.match(await look(), { finish: undefined })
  await pass(LEASE_MS - STEP_MS)
  t.match(await look(), { finish: undefined })
  home.store.comeBack()
  feed.push('2')
  await pass(LEASE_MS)
  t.match(await look(), { lastSequence: 2, finish: undefined })
})

// ── clients elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────

test('after an outage a home does not take clients elsewhere for gone that have had no time to say so', async (t) => {
  const { pass, home, other, stream, client } = await watchedElsewhere(t, { orphanTimeout: 0 })
  await pass(LEASE_MS)
  home.store.goDown()
  other.store.goDown()
  await pass(2 * LEASE_MS)
  home.store.comeBack()
  await pass(LEASE_MS / 2)
  other.store.comeBack()
  await pass(3 * LEASE_MS)
  t.notOk(stream.isFinished)
  client.drop()
  await pass(2 * LEASE_MS)
  t.equal(stream.outcome, 'aborted', 'gone for good')
})

test('the client of a replica that had to give way keeps the stream alive', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const [home, other] = [await connect({ orphanTimeout: 1_000 }), await connect({ maxActiveStreams: 1 })]
  const stream = await home.start(new Feed(), 'a')
  const client = other.attach(await other.find('a'))
  await home.start(new Feed(), 'b')
  other.attach(await other.find('b'))
  t.equal(other.registry.find('a', undefined), undefined, 'it had to')
  await pass(3 * LEASE_MS)
  t.notOk(stream.isFinished)
  client.drop()
  await pass(2 * LEASE_MS)
  t.equal(stream.outcome, 'aborted')
})

test('a sign of a client that could not be left is left again soon', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const [home, other] = [await connect({ orphanTimeout: 0 }), await connect()]
  const feed = new Feed()
  const stream = await home.start(feed, 'a')
  // It comes just before a round of signs. The next one that is not refused comes too late.
  await pass(LEASE_MS / 3 - POLL_MS)
  other.attach(await other.find('a'))
  let isRefused = true
  other.store.onCall = ({ sign }) => {
    if (sign !== undefined && isRefused) refuse()
  }
  await pass((LEASE_MS * 2) / 3 + POLL_MS + STEP_MS, () => feed.push('x'))
  isRefused = false
  await pass(LEASE_MS, () => feed.push('x'))
  t.notOk(stream.isFinished)
})

test('a home whose store is full learns that the last client elsewhere has left', async (t) => {
  const { pass, home, feed, stream, client } = await watchedElsewhere(t, { orphanTimeout: 1_000 })
  home.store.onCall = ({ append }) => {
    if (append?.batch !== undefined) refuse()
  }
  feed.push('2')
  await pass(3 * LEASE_MS)
  t.notOk(stream.isFinished, 'it is there')
  client.drop()
  await pass(2 * LEASE_MS)
  t.equal(stream.outcome, 'aborted')
})

test('replays of a finished stream cost the store one sign a round, not one for each client', async (t) => {
  const { pass, home, other, feed } = await watchedElsewhere(t)
  feed.end()
  await pass(POLL_MS)
  for (const { attach, find, store } of [home, other]) {
    let signs = 0
    store.onCall = ({ sign }) => {
      if (sign !== undefined) signs += 1
    }
    for (let count = 0; count < 40; count++) {
      const { transport } = attach(await find('a'))
      await turn()
      t.equal(transport.outcome, 'end')
    }
    await pass(LEASE_MS / 3)
    t.ok(signs > 0 && signs <= 4, `${signs} signs`)
  }
})

test('a client that has seen the end before the store has it waits for it', async (t) => {
  const { pass, home, other, feed, stream } = await watchedElsewhere(t)
  home.store.goDown()
  feed.push('2')
  feed.end()
  await pass(STEP_MS)
  t.equal(stream.outcome, 'completed')
  const cursor = { kind: 'terminal', epoch: stream.epoch } as const
  let found: EventStream | undefined
  void Promise.resolve(other.streams.find('a', undefined, cursor)).then((stream) => (found = stream))
  await pass(LEASE_MS / 2)
  t.equal(found, undefined)
  home.store.comeBack()
  await pass(POLL_MS)
  t.equal(found?.outcome, 'completed')
})

test('a home that can share its stream no more does not wait for clients elsewhere', async (t) => {
  const { pass, home, feed, stream } = await watchedElsewhere(t, { orphanTimeout: 1_000 })
  await pass(LEASE_MS / 2)
  home.store.onCall = ({ append }) => {
    if (append !== undefined) throw new StoreInvalidError('something else is under its key')
  }
  feed.push('2')
  await pass(500)
  t.notOk(stream.isFinished)
  await pass(1_000)
  t.equal(stream.outcome, 'aborted')
})

test('what is closed while it opens leaves no timer', async (t) => {
  const { clock, connect } = createSharedSystem(t)
  const instance = await connect()
  await instance.streams.close(0)
  const before = clock.pending
  const opening = createDeferred()
  instance.store.open = () => opening.promise
  const streams = new SharedStreams(
    instance.store,
    instance.registry,
    resolvePluginOptions({}).stream,
    clock,
    createRecordingLog().log
  )
  const opened = streams.open()
  await streams.close(0)
  opening.resolve()
  await opened
  t.equal(clock.pending, before)
})

// ── lives that are not there any more ────────────────────────────────────────────────────────────────────────────────

const ADDRESS = { streamId: 'a', owner: undefined }

test('an instance that had a longer life of this name leaves no sign of it in the one that has begun since', async (t) => {
  const { server, connect, pass } = createSharedSystem(t)
  const [old, fresh] = [await connect(), await connect()]
  const [oldFeed, freshFeed] = [new Feed(), new Feed()]
  await old.start(oldFeed, 'a')
  const client = old.attach(await old.find('a'))
  for (let event = 0; event < 600; event++) oldFeed.push('old')
  await pass(STEP_MS)
  server.delete(ADDRESS)
  const stream = await fresh.start(freshFeed, 'a')
  freshFeed.push('1')
  await pass(LEASE_MS)
  t.equal(client.transport.outcome, 'truncated', 'it was sent away')
  t.notOk(stream.hasClients)
  freshFeed.push('2')
  await turn()
  t.equal(stream.log.lastSequence, 2)
})

test('a sign from beyond the end, which nobody here leaves, counts as one at the end', async (t) => {
  const { other, feed, stream, pass } = await watchedElsewhere(t)
  await other.store.read(ADDRESS, 0, 0, { epoch: stream.epoch, position: 600 })
  feed.push('2')
  await pass(STEP_MS)
  feed.push('3')
  await pass(STEP_MS)
  t.equal(stream.log.lastSequence, 3)
})

test('a replica waits for its home to put it back, whoever asks for it meanwhile', async (t) => {
  const { server, pass, other, feed, stream, client } = await watchedElsewhere(t)
  await pass(LEASE_MS)
  server.delete(ADDRESS)
  const cursor = { kind: 'position', epoch: stream.epoch, sequence: 2 } as const
  let found: EventStream | undefined
  void Promise.resolve(other.streams.find('a', undefined, cursor)).then((stream) => (found = stream))
  await pass(LEASE_MS / 3)
  feed.push('2')
  await pass(POLL_MS)
  t.equal(found?.epoch, stream.epoch)
  t.strictSame(client.transport.data, ['1', '2'])
  t.equal(client.transport.outcome, undefined)
})

test('a finished stream that the store does not have yet makes no room for a replica', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const [home, other] = [await connect({ maxActiveStreams: 1 }), await connect()]
  const feed = new Feed()
  await home.start(feed, 'a')
  home.store.onCall = ({ append }) => {
    if (append?.batch !== undefined) refuse()
  }
  feed.push('1')
  feed.end()
  await pass(2 * LEASE_MS)
  await other.start(new Feed(), 'b')
  await t.rejects(home.find('b'), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
  home.store.onCall = () => {}
  await pass(LEASE_MS)
  t.match(await other.streams.look(ADDRESS), { lastSequence: 1, finish: { outcome: 'completed' } })
  t.ok(await home.find('b'), 'it has it now')
})

test('of what has finished, that which the store does not have yet gives way last', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const home = await connect({ maxTotalBufferBytes: 40_000, bufferBytes: 1_000_000 })
  home.store.onCall = ({ address: { streamId }, append }) => {
    if (streamId === 'a' && append?.batch !== undefined) refuse()
  }
  for (const streamId of ['a', 'b']) {
    const feed = new Feed()
    await home.start(feed, streamId)
    feed.push('x'.repeat(15_000))
    feed.end()
    await pass(STEP_MS)
  }
  const feed = new Feed()
  await home.start(feed, 'c')
  for (let count = 0; count < 10; count++) {
    feed.push('y'.repeat(1_000))
    await pass(STEP_MS)
  }
  t.equal(home.registry.find('b', undefined), undefined)
  t.ok(home.registry.find('a', undefined), 'though it has finished first')
})

test('nobody is attached to a replica that had to give way as soon as it was there', async (t) => {
  const { connect, pass } = createSharedSystem(t)
  const [home, other] = [await connect(), await connect({ maxActiveStreams: 1 })]
  const feed = new Feed()
  await home.start(feed, 'a')
  await home.start(new Feed(), 'b')
  const stream = await other.find('a')
  await other.find('b')
  t.throws(() => other.attach(stream), { code: 'FST_ERR_RSSE_REGISTRY_FULL' })
  t.notOk(stream.isFinished)
  feed.push('1')
  feed.end()
  await pass(POLL_MS)
  const finished = await other.find('a')
  await other.find('b')
  t.ok(finished.isFinished)
  t.throws(() => other.attach(finished), { code: 'FST_ERR_RSSE_REGISTRY_FULL' }, 'one that is over')
})

test('what the store refuses while an instance closes is brought again', async (t) => {
  const { server, pass, home, other, stream } = await watchedElsewhere(t)
  const unwanted = { streamId: 'unwanted', owner: undefined }
  const refusals = { finish: 2, discard: 3 }
  home.store.onCall = ({ name, append }) => {
    if (append?.finish !== undefined && refusals.finish-- > 0) refuse()
    if (name === 'discard' && refusals.discard-- > 0) refuse()
  }
  const throwing = Object.assign(new Feed(), {
    handler: () => {
      throw new Error('not today')
    }
  })
  await t.rejects(home.start(throwing, 'unwanted'), { message: 'not today' })
  await turn()
  t.ok(server.find(unwanted))
  stream.cut('Server shutdown')
  const closed = home.streams.close(1_000)
  await pass(1_000)
  await closed
  t.match(await other.streams.look(ADDRESS), { finish: { outcome: 'lost' } })
  t.equal(server.find(unwanted), undefined)
})
