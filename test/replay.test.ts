import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { parseCursor } from '../src/cursor.ts'
import { resolveReplay, type Arrival, type ReplayStart, type ReplayWindow } from '../src/replay.ts'

// Events 4…7 are retained, 1…3 were trimmed.
const RUNNING: ReplayWindow = {
  epoch: 'epoch',
  firstSequence: 4,
  lastSequence: 7,
  isFinished: false,
  isLost: false,
  hasError: false
}
const WHOLE: ReplayWindow = { ...RUNNING, firstSequence: 1 }
const FAILED: ReplayWindow = { ...RUNNING, isFinished: true, hasError: true }

interface Came {
  readonly arrival?: Arrival
  readonly from?: 'start' | 'live'
}

function resolve(cursor: string | undefined, window: ReplayWindow, came: Came = {}): ReplayStart {
  const { arrival = 'attached', from = 'start' } = came
  return resolveReplay({ arrival, cursor: parseCursor(cursor), from }, window)
}

const exactly = (sequence: number): ReplayStart => ({ sequence, gap: undefined, hasSeenError: false })
const afterReset: ReplayStart = {
  sequence: 3,
  gap: { reason: 'reset', missed: null, resumesAt: 4 },
  hasSeenError: false
}

test('no cursor begins at event 1', async (t) => {
  t.strictSame(resolve(undefined, WHOLE), exactly(0))
})

test('no cursor on a log that begins later misses what was trimmed', async (t) => {
  const gap = { reason: 'trimmed', missed: 3, resumesAt: 4 }
  t.strictSame(resolve(undefined, RUNNING), { sequence: 3, gap, hasSeenError: false })
})

test('no cursor and from live begins after the newest event', async (t) => {
  t.strictSame(resolve(undefined, RUNNING, { from: 'live' }), exactly(7))
  t.strictSame(resolve(undefined, FAILED, { from: 'live' }), exactly(7))
})

test('a cursor wins over from live', async (t) => {
  t.strictSame(resolve('epoch.5', RUNNING, { from: 'live' }), exactly(5))
})

test('whoever starts the stream begins at event 1, whatever its cursor says', async (t) => {
  for (const arrival of ['started', 'restarted'] as const) {
    t.strictSame(resolve('other.5', WHOLE, { arrival, from: 'live' }), exactly(0))
  }
})

test('the newest event is nothing but the future', async (t) => {
  t.strictSame(resolve('epoch.7', RUNNING), exactly(7))
})

test('the oldest event that resumes without a gap is the one before the log', async (t) => {
  t.strictSame(resolve('epoch.4', RUNNING), exactly(4))
  t.strictSame(resolve('epoch.3', RUNNING), exactly(3))
})

test('one event earlier is a gap of exactly one', async (t) => {
  const gap = { reason: 'trimmed', missed: 1, resumesAt: 4 }
  t.strictSame(resolve('epoch.2', RUNNING), { sequence: 3, gap, hasSeenError: false })
})

test('sequence 0 is a cursor like any other', async (t) => {
  t.strictSame(resolve('epoch.0', WHOLE), exactly(0))
  t.strictSame(resolve('epoch.0', RUNNING).gap, { reason: 'trimmed', missed: 3, resumesAt: 4 })
})

test('a cursor ahead of the stream is of another life of it', async (t) => {
  t.strictSame(resolve('epoch.8', RUNNING), afterReset)
  t.strictSame(resolve('epoch.9', FAILED), afterReset)
})

test('a cursor of another epoch is a gap', async (t) => {
  t.strictSame(resolve('other.5', RUNNING), afterReset)
  t.strictSame(resolve('other.end', FAILED), afterReset)
})

test('a malformed cursor is a gap', async (t) => {
  t.strictSame(resolve('junk', RUNNING), afterReset)
})

test('the sequence of the error has everything but the end', async (t) => {
  t.strictSame(resolve('epoch.8', FAILED), { sequence: 7, gap: undefined, hasSeenError: true })
  t.strictSame(resolve('epoch.7', FAILED), exactly(7))
})

test('a terminal cursor has everything, unless the stream goes on', async (t) => {
  t.strictSame(resolve('epoch.end', FAILED), { sequence: 7, gap: undefined, hasSeenError: true })
  t.strictSame(resolve('epoch.end', RUNNING), afterReset)
})

test('a log with no retained event resumes at the next one', async (t) => {
  const empty: ReplayWindow = { ...RUNNING, firstSequence: 8 }
  t.strictSame(resolve('epoch.7', empty), exactly(7))
  t.strictSame(resolve('epoch.6', empty).gap, { reason: 'trimmed', missed: 1, resumesAt: 8 })
  const fresh: ReplayWindow = { ...RUNNING, firstSequence: 1, lastSequence: 0 }
  t.strictSame(resolve(undefined, fresh), exactly(0))
  t.strictSame(resolve('epoch.0', fresh), exactly(0))
})

test('a client is given a contiguous run or told of exactly what it misses', async () => {
  fc.assert(
    fc.property(fc.nat({ max: 20 }), fc.nat({ max: 20 }), fc.nat({ max: 45 }), (trimmed, retained, has) => {
      const window: ReplayWindow = {
        epoch: 'epoch',
        firstSequence: trimmed + 1,
        lastSequence: trimmed + retained,
        isFinished: false,
        isLost: false,
        hasError: false
      }
      const { sequence, gap } = resolve(`epoch.${has}`, window)
      assert.ok(sequence >= trimmed && sequence <= trimmed + retained, 'it begins inside the log')
      if (gap === undefined) assert.equal(sequence, has)
      else if (gap.reason === 'trimmed') {
        assert.equal(gap.missed, sequence - has)
        assert.equal(gap.resumesAt, sequence + 1)
      } else assert.ok(has > trimmed + retained)
    })
  )
})

test('a client of a lost stream may have more than anybody else, and has all of it then', async (t) => {
  const lost: ReplayWindow = { ...RUNNING, isFinished: true, isLost: true }
  t.strictSame(resolve('epoch.9', lost), exactly(7))
  t.strictSame(resolve('epoch.8', lost), exactly(7))
  t.strictSame(resolve('epoch.6', lost), exactly(6))
  t.equal(resolve('epoch.9', { ...lost, isLost: false }).gap?.reason, 'reset')
})
