import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import type {
  Append,
  Batch,
  CreateAnswer,
  Finish,
  News,
  NewLife,
  Sign,
  StreamAddress,
  StreamStore
} from '../../src/store/store.ts'
import { eventually } from '../helpers/eventually.ts'
import { createRecordingLog } from '../helpers/recording-log.ts'
import { untilAnswered } from '../helpers/until-answered.ts'

/** Makes the store of one more instance on the same data, not opened. */
export type CreateStore = (t: Test, leaseMs: number) => StreamStore

const LONG_LEASE_MS = 30_000
const SHORT_LEASE_MS = 2_000
const TTL_MS = 120_000
const STARTED_AT = 1_795_500_000_123

/** An opened store, and what its host was told. */
interface Instance {
  readonly store: StreamStore
  readonly stops: { address: StreamAddress; epoch: string }[]
}

let streams = 0

/** A name that no other test has. */
function someStream(owner?: string): StreamAddress {
  return { streamId: `stream-${process.pid}-${streams++}`, owner }
}

function life(epoch: string, more: Partial<NewLife> = {}): NewLife {
  return { epoch, route: undefined, ttlMs: TTL_MS, startedAt: STARTED_AT, pace: undefined, ...more }
}

/** A batch that begins with `firstSequence`, one text a frame. */
function batch(firstSequence: number, ...frames: string[]): Batch {
  return {
    firstSequence,
    frames: Buffer.from(frames.join('')),
    lengths: frames.map((frame) => Buffer.byteLength(frame))
  }
}

/** The sign of a client that has everything up to `position`. */
function signAt(position: number, epoch?: string): Sign {
  return { epoch, position }
}

function appendOf(epoch: string, { firstSequence, frames, lengths }: Batch, more: Partial<Append> = {}): Append {
  const lastSequence = firstSequence + lengths.length - 1
  return {
    epoch,
    ttlMs: TTL_MS,
    batch: { firstSequence, frames, lengths },
    lastSequence,
    keep: 1,
    finish: undefined,
    ...more
  }
}

function beatOf(epoch: string, lastSequence: number, more: Partial<Append> = {}): Append {
  return { epoch, ttlMs: TTL_MS, batch: undefined, lastSequence, keep: 1, finish: undefined, ...more }
}

/** Without what tells of the first event alone. */
function withoutFirst(told: readonly (News | undefined)[]): unknown[] {
  return told.filter((news) => news !== undefined && news.lastSequence > 1)
}

const completed: Finish = { outcome: 'completed', error: undefined, finishedAt: STARTED_AT + 1_000 }
const failed: Finish = {
  outcome: 'failed',
  error: { code: 'STREAM_FAILED', message: 'Ünexpected\n"end" 😀' },
  finishedAt: STARTED_AT + 2_000
}

/**
 * What every store has to do. Run it for each server and each client library; the tests share the data, so the names of
 * streams are new each time.
 */
export function testStoreContract(t: Test, createStore: CreateStore): void {
  const open = async (t: Test, leaseMs = LONG_LEASE_MS): Promise<Instance> => {
    const store = createStore(t, leaseMs)
    t.teardown(() => store.close(1_000))
    const stops: Instance['stops'] = []
    const { log } = createRecordingLog()
    await store.open({ log, onStop: (address, epoch) => stops.push({ address, epoch }), onReturn: () => {} })
    return { store, stops }
  }

  /** A stream with some events, on an instance of its own. */
  const start = async (t: Test, ...frames: string[]): Promise<{ home: StreamStore; address: StreamAddress }> => {
    const { store } = await open(t)
    const address = someStream()
    await store.create(address, life('life-1'))
    if (frames.length > 0) await store.append(address, appendOf('life-1', batch(1, ...frames)))
    return { home: store, address }
  }

  t.test('a life that is entered is there for every instance', async (t) => {
    const [{ store: home }, { store: other }] = [await open(t), await open(t)]
    const address = someStream('somebody')
    t.not(home.instance, other.instance)
    const more = {
      route: 'GET /chat/:id',
      startedAt: STARTED_AT + 0.5,
      pace: { by: 'fastest', events: 1_250, bytes: 1_048_576 } as const
    }
    t.strictSame(await home.create(address, life('life-1', more)), { kind: 'made' })
    const answer = await other.create(address, life('life-2'))
    if (answer.kind !== 'there') throw new Error('it was made twice')
    const { beatAgeMs, ...stream } = answer.stream
    t.ok(beatAgeMs >= 0 && beatAgeMs < LONG_LEASE_MS, 'its age is that of its beat')
    t.strictSame(stream, {
      epoch: 'life-1',
      route: 'GET /chat/:id',
      home: home.instance,
      beat: 0,
      firstSequence: 1,
      lastSequence: 0,
      ttlMs: TTL_MS,
      startedAt: STARTED_AT,
      pace: { by: 'fastest', events: 1_250, bytes: 1_048_576 },
      isStopped: false,
      finish: undefined
    })
    const page = await other.read(address, 0, 0)
    t.match(page, { stream, batches: [] })
  })

  t.test('a life that is entered again is there, and the caller finds itself as its home', async (t) => {
    const { home, address } = await start(t)
    t.match(await home.create(address, life('life-1')), { kind: 'there', stream: { home: home.instance } })
  })

  t.test('of instances that enter a life at the same moment one makes it', async (t) => {
    const stores = await Promise.all([open(t), open(t), open(t)])
    for (let round = 0; round < 20; round++) {
      const address = someStream()
      const answers: CreateAnswer[] = await Promise.all(
        stores.map(({ store }, index) => store.create(address, life(`life-${index}`)))
      )
      t.equal(answers.filter(({ kind }) => kind === 'made').length, 1)
    }
  })

  t.test('only the lost life that was judged gives way to another', async (t) => {
    const { home, address } = await start(t, 'old')
    const { store: other } = await open(t)
    const replace = (epoch: string): Promise<CreateAnswer> =>
      other.create(address, life('life-2', { route: '/' }), epoch)
    t.match(await replace('life-1'), { kind: 'there', stream: { epoch: 'life-1' } }, 'it runs')
    await home.append(address, beatOf('life-1', 1, { finish: { ...completed, outcome: 'lost' } }))
    t.match(await replace('life-0'), { kind: 'there', stream: { epoch: 'life-1' } }, 'it is another one')
    t.strictSame(await replace('life-1'), { kind: 'made' })
    t.match(await replace('life-1'), { kind: 'there', stream: { epoch: 'life-2', home: other.instance } })
    t.match(await home.read(address, 0, 1_000), {
      stream: { epoch: 'life-2', route: '/', beat: 0, firstSequence: 1, lastSequence: 0, finish: undefined },
      batches: []
    })
    t.strictSame(await home.append(address, beatOf('life-1', 1)), { kind: 'fenced' })
  })

  t.test('a life that is taken back is gone, and nobody else can take it', async (t) => {
    const { home, address } = await start(t)
    const { store: other } = await open(t)
    await other.discard(address, 'life-1')
    await home.discard(address, 'life-2')
    t.ok(await home.read(address, 0, 0))
    await home.discard(address, 'life-1')
    t.equal(await home.read(address, 0, 0), undefined)
    await home.discard(address, 'life-1')
    t.strictSame(await other.create(address, life('life-2')), { kind: 'made' })
  })

  t.test('what is not there is missing', async (t) => {
    const { store } = await open(t)
    const address = someStream()
    t.equal(await store.read(address, 0, 1_000, signAt(0)), undefined)
    t.strictSame(await store.append(address, appendOf('life-1', batch(1, 'one'))), { kind: 'missing' })
    t.strictSame(await store.append(address, beatOf('life-1', 0, { finish: completed })), { kind: 'missing' })
    t.equal(await store.stop(address), false)
    t.equal(await store.reap(address, 'life-1', 0), false)
    await store.discard(address, 'life-1')
    t.equal(await store.read(address, 0, 0), undefined)
  })

  t.test('frames come back as they went, with their lengths', async (t) => {
    const { home, address } = await start(t)
    const bytes = Buffer.from(Array.from({ length: 3 * 256 }, (_, index) => index % 256))
    const large = Buffer.alloc(300_000, bytes)
    const lines = Buffer.from('\r\n\r\n$5\r\n\0')
    const batches = [
      { firstSequence: 1, frames: bytes, lengths: [256, 1, 511] },
      { firstSequence: 4, frames: large, lengths: [299_999, 1] },
      { firstSequence: 6, frames: lines, lengths: [lines.length] }
    ]
    for (const batch of batches) {
      t.match(await home.append(address, appendOf('life-1', batch)), { kind: 'stored' })
    }
    const { store: other } = await open(t)
    t.strictSame((await other.read(address, 0, 1_000_000))?.batches, batches)
  })

  t.test(
    'a batch that is there already is not stored twice, and whoever repeats it learns where to go on',
    async (t) => {
      const { home, address } = await start(t)
      const first = appendOf('life-1', batch(1, 'one', 'two'))
      t.strictSame(await home.append(address, first), {
        kind: 'stored',
        lastSequence: 2,
        isStopped: false,
        pacing: undefined
      })
      t.strictSame(await home.append(address, first), { kind: 'apart', lastSequence: 2 }, 'repeated')
      const grown = appendOf('life-1', batch(1, 'one', 'two', 'three'), { finish: completed })
      t.strictSame(await home.append(address, grown), { kind: 'apart', lastSequence: 2 }, 'repeated and grown')
      t.match(await home.append(address, appendOf('life-1', batch(3, 'three'))), { kind: 'stored', lastSequence: 3 })
      const page = await home.read(address, 0, 1_000)
      t.match(page, { stream: { lastSequence: 3, finish: undefined } })
      t.strictSame(page?.batches, [batch(1, 'one', 'two'), batch(3, 'three')])
    }
  )

  t.test('streams that append at once are answered one by one', async (t) => {
    const { store: home } = await open(t)
    const addresses = Array.from({ length: 150 }, () => someStream())
    const [, fenced, missing, finished] = addresses as [unknown, StreamAddress, StreamAddress, StreamAddress]
    const batchOf = (index: number): Batch => {
      const text = `${index} ${'x'.repeat(index * 20)}`
      return batch(1, text, text)
    }
    for (const address of addresses) if (address !== missing) await home.create(address, life('life-1'))
    await home.append(finished, beatOf('life-1', 0, { finish: completed }))
    const answers = await Promise.all(
      addresses.map((address, index) =>
        home.append(address, appendOf(address === fenced ? 'life-2' : 'life-1', batchOf(index)))
      )
    )
    for (const [index, address] of addresses.entries()) {
      const page = await home.read(address, 0, 10_000)
      if (address === missing) {
        t.strictSame(answers[index], { kind: 'missing' })
        t.equal(page, undefined)
      } else if (address === fenced || address === finished) {
        t.strictSame(answers[index], { kind: 'fenced' })
        t.match(page, { stream: { lastSequence: 0 }, batches: [] })
      } else {
        t.strictSame(answers[index], { kind: 'stored', lastSequence: 2, isStopped: false, pacing: undefined })
        t.strictSame(page?.batches, [batchOf(index)])
      }
    }
  })

  t.test('what does not follow is not stored', async (t) => {
    const { home, address } = await start(t, 'one', 'two')
    const apart = { kind: 'apart', lastSequence: 2 }
    t.strictSame(await home.append(address, appendOf('life-1', batch(4, 'four'))), apart, 'a hole')
    t.strictSame(await home.append(address, appendOf('life-1', batch(2, 'two', 'three'))), apart, 'an overlap')
    t.strictSame(await home.append(address, beatOf('life-1', 3)), apart, 'a beat that takes more to be there')
    const end = beatOf('life-1', 3, { finish: completed })
    t.strictSame(await home.append(address, end), apart, 'an end that would overtake its tail')
    t.match(await home.read(address, 0, 0), { stream: { lastSequence: 2, finish: undefined } })
  })

  t.test('after a gap the oldest event that the home retains follows, and what was before is gone', async (t) => {
    const { home, address } = await start(t, 'one', 'two')
    const later = batch(10, 'ten', 'eleven')
    t.match(await home.append(address, appendOf('life-1', later, { keep: 9 })), { kind: 'apart' })
    t.match(await home.append(address, appendOf('life-1', later, { keep: 10 })), { kind: 'stored', lastSequence: 11 })
    const page = await home.read(address, 0, 1_000)
    t.match(page, { stream: { firstSequence: 10, lastSequence: 11 } })
    t.strictSame(page?.batches, [later])
  })

  t.test('what the home has trimmed is trimmed, in whole batches', async (t) => {
    const { home, address } = await start(t, 'one', 'two', 'three')
    await home.append(address, appendOf('life-1', batch(4, 'four'), { keep: 2 }))
    const page = await home.read(address, 0, 1_000)
    t.match(page, { stream: { firstSequence: 2 } })
    t.strictSame(page?.batches, [batch(1, 'one', 'two', 'three'), batch(4, 'four')])
    await home.append(address, beatOf('life-1', 4, { keep: 4 }))
    t.strictSame((await home.read(address, 0, 1_000))?.batches, [batch(4, 'four')])
  })

  t.test('a read begins with the batch that has the next event', async (t) => {
    const { home, address } = await start(t, 'one', 'two', 'three')
    await home.append(address, appendOf('life-1', batch(4, 'four')))
    const readAfter = async (after: number): Promise<unknown> => (await home.read(address, after, 1_000))?.batches
    t.strictSame(await readAfter(2), [batch(1, 'one', 'two', 'three'), batch(4, 'four')])
    t.strictSame(await readAfter(3), [batch(4, 'four')])
    t.strictSame(await readAfter(4), [])
    t.strictSame(await readAfter(1_000), [], 'beyond the end')
  })

  t.test('a page ends where the next batch would be too much, and has one at least', async (t) => {
    const { home, address } = await start(t)
    for (let sequence = 1; sequence <= 50; sequence++) {
      await home.append(address, appendOf('life-1', batch(sequence, 'x'.repeat(10))))
    }
    const count = async (maxBytes: number): Promise<unknown> => (await home.read(address, 0, maxBytes))?.batches.length
    t.equal(await count(0), 0, 'the state alone')
    t.equal(await count(1), 1)
    t.equal(await count(29), 2)
    t.equal(await count(30), 3)
    t.equal(await count(330), 33)
    t.equal(await count(1_000_000), 50)
  })

  t.test('a beat counts', async (t) => {
    const { home, address } = await start(t, 'one')
    t.match(await home.append(address, beatOf('life-1', 1)), { kind: 'stored', lastSequence: 1 })
    t.match(await home.append(address, beatOf('life-1', 1)), { kind: 'stored', lastSequence: 1 })
    t.match(await home.read(address, 0, 0), { stream: { beat: 3, lastSequence: 1, finish: undefined } })
  })

  t.test('a beat ages until the next one', async (t) => {
    const { home, address } = await start(t)
    await delay(30)
    const before = await home.read(address, 0, 0)
    t.ok(Number(before?.stream.beatAgeMs) >= 20)
    // One that is as late as a busy machine makes it may be as old.
    await eventually('it is younger', async () => {
      await home.append(address, beatOf('life-1', 0))
      const after = await home.read(address, 0, 0)
      return Number(after?.stream.beatAgeMs) < Number(before?.stream.beatAgeMs)
    })
  })

  t.test('a stream ends with its last batch', async (t) => {
    const { home, address } = await start(t)
    const last = appendOf('life-1', batch(1, 'one', 'two'), { finish: failed })
    const stored = { kind: 'stored', lastSequence: 2, isStopped: false, pacing: undefined }
    t.strictSame(await home.append(address, last), stored)
    t.strictSame(await home.append(address, last), stored, 'repeated')
    const page = await home.read(address, 0, 1_000)
    t.strictSame(page?.stream.finish, failed)
    t.strictSame(page?.batches, [batch(1, 'one', 'two')])
    t.strictSame(await home.append(address, beatOf('life-1', 2)), { kind: 'fenced' }, 'nothing comes after it')
    t.strictSame(await home.append(address, appendOf('life-1', batch(3, 'three'))), { kind: 'fenced' })
    t.strictSame(await home.append(address, beatOf('life-1', 2, { finish: completed })), { kind: 'fenced' })
    t.match(await home.create(address, life('life-2')), { kind: 'there', stream: { epoch: 'life-1', finish: failed } })
  })

  for (const outcome of ['completed', 'aborted', 'evicted', 'lost'] as const) {
    t.test(`a stream that ended ${outcome} has no error`, async (t) => {
      const { home, address } = await start(t, 'one')
      const finish = { outcome, error: undefined, finishedAt: STARTED_AT }
      await home.append(address, beatOf('life-1', 1, { finish }))
      t.strictSame((await home.read(address, 0, 0))?.stream.finish, finish)
    })
  }

  t.test('another instance and another life are fenced', async (t) => {
    const { home, address } = await start(t, 'one')
    const { store: other } = await open(t)
    t.strictSame(await other.append(address, appendOf('life-1', batch(2, 'two'))), { kind: 'fenced' })
    t.strictSame(await home.append(address, appendOf('life-2', batch(2, 'two'))), { kind: 'fenced' })
    t.strictSame(await other.append(address, beatOf('life-1', 1, { finish: completed })), { kind: 'fenced' })
    t.match(await home.read(address, 0, 0), { stream: { beat: 1, lastSequence: 1, finish: undefined } })
  })

  t.test('sequences of fifteen digits keep all of them', async (t) => {
    const { home, address } = await start(t)
    const first = 999_999_999_999_990
    await home.append(address, appendOf('life-1', batch(first, 'a', 'b'), { keep: first }))
    await home.append(address, appendOf('life-1', batch(first + 2, 'c'), { keep: first + 1 }))
    const page = await home.read(address, first + 1, 1_000, signAt(first))
    t.match(page, { stream: { firstSequence: first + 1, lastSequence: first + 2 } })
    t.strictSame(page?.batches, [batch(first + 2, 'c')])
  })

  t.test('followers are told of every batch and of the end', async (t) => {
    const { home, address } = await start(t, 'one')
    const { store: other } = await open(t)
    const told: (News | undefined)[] = []
    const unfollow = other.follow(address, (news) => told.push(news))
    await eventually('it is followed', () => told.includes(undefined))
    await home.append(address, appendOf('life-1', batch(2, 'two', '\0ÿ'), { keep: 2 }))
    await home.append(address, beatOf('life-1', 3, { keep: 2 }))
    await home.append(address, appendOf('life-1', batch(4, 'x'.repeat(100_000)), { keep: 2 }))
    await home.append(address, appendOf('life-1', batch(5, 'five'), { keep: 3, finish: failed }))
    await eventually('all is told', () => told.at(-1)?.finish !== undefined)
    const news = { epoch: 'life-1', keep: 2, batch: undefined, finish: undefined }
    // In a cluster the news of before can be that late.
    t.strictSame(withoutFirst(told), [
      { ...news, lastSequence: 3, batch: batch(2, 'two', '\0ÿ') },
      { ...news, lastSequence: 4 },
      { ...news, keep: 3, lastSequence: 5, batch: batch(5, 'five'), finish: failed }
    ])
    unfollow()
    unfollow()
  })

  t.test('nobody is told of another stream, or after it was left', async (t) => {
    const { home, address } = await start(t)
    const { store: other } = await open(t)
    const [left, stayed, elsewhere]: (News | undefined)[][] = [[], [], []]
    const unfollow = other.follow(address, (news) => left?.push(news))
    other.follow(address, (news) => stayed?.push(news))
    other.follow(someStream(), (news) => elsewhere?.push(news))
    await eventually('they are followed', () => [left, stayed, elsewhere].every((told) => told?.length === 1))
    unfollow()
    await home.append(address, appendOf('life-1', batch(1, 'one')))
    await eventually('the one is told', () => stayed?.length === 2)
    t.equal(left?.length, 1)
    t.equal(elsewhere?.length, 1)
  })

  t.test('a stream can be left and followed again at any time', async (t) => {
    const { home, address } = await start(t)
    const { store: other } = await open(t)
    for (let round = 0; round < 5; round++) {
      other.follow(address, () => {})()
      const told: (News | undefined)[] = []
      const unfollow = other.follow(address, (news) => told.push(news))
      await eventually('it is followed', () => told.length > 0)
      await home.append(address, appendOf('life-1', batch(round + 1, 'one')))
      await eventually('it is told', () => told.at(-1)?.lastSequence === round + 1)
      unfollow()
    }
  })

  t.test('a stop reaches the home by two ways', async (t) => {
    const [{ store: home, stops }, { store: other, stops: othersStops }] = [await open(t), await open(t)]
    const address = someStream('{somebody}:\n😀')
    await home.create(address, life('life-1'))
    t.equal(await other.stop(address), true)
    t.equal(await other.stop(address), true, 'repeated')
    await eventually('the home is told', () => stops.length === 2)
    t.strictSame(stops[0], { address, epoch: 'life-1' })
    t.equal(othersStops.length, 0)
    t.match(await other.read(address, 0, 0), { stream: { isStopped: true } })
    t.match(await home.append(address, beatOf('life-1', 0)), { kind: 'stored', isStopped: true })
    await home.append(address, beatOf('life-1', 0, { finish: { ...completed, outcome: 'aborted' } }))
    t.match(await other.read(address, 0, 0), { stream: { isStopped: false, finish: { outcome: 'aborted' } } })
    t.equal(await other.stop(address), false, 'it has ended')
  })

  t.test('a home learns the position of the slowest client of other instances', async (t) => {
    const { home, address } = await start(t, 'one', 'two', 'three')
    const [{ store: second }, { store: third }] = [await open(t), await open(t)]
    const slowest = async (): Promise<unknown> => {
      const answer = await home.append(address, beatOf('life-1', 3))
      return answer.kind === 'stored' ? answer.pacing : answer
    }
    await home.read(address, 0, 0, signAt(1))
    await second.read(address, 0, 0)
    t.equal(await slowest(), undefined, 'no sign of another')
    await second.read(address, 0, 0, signAt(3))
    t.equal(await slowest(), 3)
    await third.read(address, 0, 1_000, signAt(0))
    t.equal(await slowest(), 0)
    await third.read(address, 0, 0, signAt(2))
    t.equal(await slowest(), 2)
  })

  t.test('where the fastest paces, a home learns the position of the fastest', async (t) => {
    const [{ store: home }, { store: second }, { store: third }] = [await open(t), await open(t), await open(t)]
    const address = someStream()
    await home.create(address, life('life-1', { pace: { by: 'fastest', events: 10, bytes: 1_000 } }))
    await home.append(address, appendOf('life-1', batch(1, 'one', 'two', 'three')))
    await second.read(address, 0, 0, signAt(1))
    await third.read(address, 0, 0, signAt(2))
    t.match(await home.append(address, beatOf('life-1', 3)), { kind: 'stored', pacing: 2 })
  })

  t.test('a sign of clients of another life is not left', async (t) => {
    const { home, address } = await start(t, 'one')
    const { store: other } = await open(t)
    const page = await other.read(address, 0, 1_000, signAt(600, 'life-0'))
    t.match(page, { stream: { epoch: 'life-1' }, batches: [{}] }, 'it is told of this one')
    t.match(await home.append(address, beatOf('life-1', 1)), { kind: 'stored', pacing: undefined })
    await other.read(address, 0, 1_000, signAt(1, 'life-1'))
    t.match(await home.append(address, beatOf('life-1', 1)), { kind: 'stored', pacing: 1 })
  })

  t.test('a sign counts for a lease', async (t) => {
    const [{ store: home }, { store: other }] = [await open(t, SHORT_LEASE_MS), await open(t, SHORT_LEASE_MS)]
    const address = someStream()
    // A cluster that lacks a node may not have answered yet when it was opened, with so short a lease.
    await untilAnswered(() => home.create(address, life('life-1')))
    await untilAnswered(() => other.read(address, 0, 0, signAt(0)))
    t.match(await home.append(address, beatOf('life-1', 0)), { pacing: 0 })
    await delay(SHORT_LEASE_MS + 100)
    t.match(await home.append(address, beatOf('life-1', 0)), { kind: 'stored', pacing: undefined })
  })

  t.test('a home that gave no sign of life since is declared lost, another is not', async (t) => {
    const { home, address } = await start(t, 'one')
    const { store: other } = await open(t)
    const told: (News | undefined)[] = []
    other.follow(address, (news) => told.push(news))
    await eventually('it is followed', () => told.includes(undefined))
    t.equal(await other.reap(address, 'life-1', 0), false, 'it lived since')
    t.equal(await other.reap(address, 'life-2', 1), false, 'it is another one')
    t.equal(await other.reap(address, 'life-1', 1), true)
    t.equal(await other.reap(address, 'life-1', 1), true, 'repeated')
    await eventually('followers are told', () => told.at(-1)?.finish !== undefined)
    t.match(told.at(-1), { epoch: 'life-1', keep: 1, lastSequence: 1, finish: { outcome: 'lost' } })
    const page = await other.read(address, 0, 1_000)
    t.match(page, { stream: { finish: { outcome: 'lost', error: undefined } } })
    t.strictSame(page?.batches, [batch(1, 'one')], 'what it had is still there')
    t.strictSame(await home.append(address, appendOf('life-1', batch(2, 'two'))), { kind: 'fenced' })
    t.strictSame(await home.append(address, beatOf('life-1', 1, { finish: completed })), { kind: 'fenced' })
    t.equal(await other.stop(address), false)
  })

  t.test('a stream that has ended cannot be lost', async (t) => {
    const { home, address } = await start(t)
    await home.append(address, beatOf('life-1', 0, { finish: completed }))
    t.equal(await home.reap(address, 'life-1', 1), false)
    t.match(await home.read(address, 0, 0), { stream: { finish: completed } })
  })

  t.test('a stream is gone when nobody gave a sign for its time', async (t) => {
    const { store } = await open(t)
    const [left, kept] = [someStream(), someStream()]
    const ttlMs = 800
    for (const address of [left, kept]) {
      await store.create(address, life('life-1', { ttlMs }))
      await store.append(address, appendOf('life-1', batch(1, 'one'), { ttlMs, finish: completed }))
    }
    for (let round = 0; round < 12; round++) {
      await delay(100)
      await store.read(kept, 0, 0, signAt(1))
    }
    t.equal(await store.read(left, 0, 1_000), undefined)
    t.strictSame((await store.read(kept, 0, 1_000))?.batches, [batch(1, 'one')])
    t.strictSame(await store.create(left, life('life-2')), { kind: 'made' })
  })

  t.test('whatever a name has in it, it is a stream of its own', async (t) => {
    const { store } = await open(t)
    const id = someStream().streamId
    const owners = [
      undefined,
      'a',
      'b',
      'a:b',
      'a","b',
      '{a}',
      '}{',
      '{',
      '\n',
      '\0',
      '😀',
      '\ud83d',
      '\ude00',
      'null',
      ''
    ]
    const addresses = [id, `${id}"`, `${id}}`].flatMap((streamId) => owners.map((owner) => ({ streamId, owner })))
    for (const [index, address] of addresses.entries()) {
      t.match(await store.create(address, life(`life-${index}`)), { kind: 'made' })
    }
    for (const [index, address] of addresses.entries()) {
      t.match(await store.read(address, 0, 0), { stream: { epoch: `life-${index}` } })
    }
  })

  t.test('a store that is closed refuses everything, and can be closed again', async (t) => {
    const { store } = await open(t)
    const address = someStream()
    await store.close(1_000)
    await store.close(1_000)
    await t.rejects(store.create(address, life('life-1')), { code: 'FST_ERR_RSSE_STORE_UNAVAILABLE' })
    await t.rejects(store.read(address, 0, 0), { code: 'FST_ERR_RSSE_STORE_UNAVAILABLE' })
    store.follow(address, () => {})()
  })

  t.test('closing waits for what is under way', async (t) => {
    const { home, address } = await start(t)
    const appended = home.append(address, appendOf('life-1', batch(1, 'one')))
    await home.close(10_000)
    t.match(await appended, { kind: 'stored' })
  })
}
