import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { EventLog } from '../src/event-log.ts'

/** What a log promises, in a few lines: every frame is kept, and a number says where the window begins. */
class NaiveLog {
  readonly frames: string[] = []
  first = 0

  get events(): number {
    return this.frames.length - this.first
  }

  get wireBytes(): number {
    return byteLength(this.frames.slice(this.first))
  }

  offsetOf(index: number): number {
    return byteLength(this.frames.slice(0, index))
  }

  trim(maxBytes: number, maxEvents: number): void {
    while (this.wireBytes > maxBytes || this.events > maxEvents) this.first++
  }
}

function byteLength(frames: string[]): number {
  return Buffer.byteLength(frames.join(''))
}

function append(log: EventLog, text: string): void {
  log.append(text, Buffer.byteLength(text))
}

/** Everything from `offset` on, in slices. */
function readAll(log: EventLog, offset: number, maxBytes: number): string {
  const parts: Buffer[] = []
  let at = offset
  while (at < log.endOffset) {
    const slice = log.read(at, maxBytes)
    assert.ok(slice.bytes.length > 0 && slice.bytes.length <= maxBytes)
    assert.equal(slice.endOffset, at + slice.bytes.length)
    parts.push(slice.bytes)
    at = slice.endOffset
  }
  return Buffer.concat(parts).toString()
}

function logOf(frames: string[], maxBytes = 1_024): EventLog {
  const log = new EventLog(maxBytes)
  for (const frame of frames) append(log, frame)
  return log
}

test('an empty log begins at event 1 and holds nothing', async (t) => {
  const log = new EventLog(1_024)
  t.equal(log.firstSequence, 1)
  t.equal(log.lastSequence, 0)
  t.equal(log.events, 0)
  t.equal(log.wireBytes, 0)
  t.equal(log.heldBytes, 0)
  t.equal(log.offsetAfter(0), 0)
  t.notOk(log.hasTrimmedSegments)
  t.notOk(log.trimSegment())
})

test('frames are read as they were appended, in slices that end with an event', async (t) => {
  const log = logOf(['aaaa', 'bb', 'cccccc'])
  t.equal(log.lastSequence, 3)
  t.match(log.read(0, 100), { bytes: Buffer.from('aaaabbcccccc'), endOffset: 12, lastSequence: 3 })
  t.match(log.read(0, 6), { bytes: Buffer.from('aaaabb'), endOffset: 6, lastSequence: 2 })
  t.match(log.read(0, 11), { bytes: Buffer.from('aaaabb'), endOffset: 6, lastSequence: 2 })
  t.match(log.read(4, 3), { bytes: Buffer.from('bb'), endOffset: 6, lastSequence: 2 })
})

test('only an event that is larger than a slice is cut', async (t) => {
  const log = logOf(['aa', 'bbbbbb', 'cc'])
  t.match(log.read(0, 4), { bytes: Buffer.from('aa'), lastSequence: 1 })
  t.match(log.read(2, 4), { bytes: Buffer.from('bbbb'), lastSequence: 1 })
  t.match(log.read(6, 4), { bytes: Buffer.from('bbcc'), lastSequence: 3 })
  t.match(log.read(6, 3), { bytes: Buffer.from('bb'), lastSequence: 2 })
})

test('an offset follows from a sequence, up to both ends of the window', async (t) => {
  const log = logOf(['aaaa', 'bb', 'cccccc'])
  t.strictSame(
    [0, 1, 2, 3].map((sequence) => log.offsetAfter(sequence)),
    [0, 4, 6, 12]
  )
  log.trim(100, 2)
  t.equal(log.offsetAfter(1), 4)
  log.trim(100, 1)
  t.equal(log.offsetAfter(2), 6)
})

test('an event of exactly the limit stays, one byte more pushes it out', async (t) => {
  const log = logOf(['x'.repeat(10)])
  log.trim(10, 1)
  t.equal(log.events, 1)
  append(log, 'y')
  log.trim(10, 10)
  t.equal(log.firstSequence, 2)
  t.equal(log.wireBytes, 1)
})

test('exactly the limit of events stays, one more pushes out the oldest', async (t) => {
  const log = logOf(['a', 'b'])
  log.trim(100, 2)
  t.equal(log.firstSequence, 1)
  append(log, 'c')
  log.trim(100, 2)
  t.equal(log.firstSequence, 2)
  t.equal(log.lastSequence, 3)
})

test('a position stays true whatever is trimmed', async (t) => {
  const log = logOf(['aaaa', 'bb', 'cc'])
  log.trim(100, 1)
  log.release(Infinity)
  append(log, 'dd')
  t.equal(readAll(log, 6, 100), 'ccdd')
  t.equal(log.offsetAfter(3), 8)
})

test('a slice stays valid after the log has dropped its segment', async (t) => {
  const log = new EventLog(1_024)
  append(log, 'x'.repeat(200))
  const slice = log.read(0, 65_536)
  for (let i = 0; i < 100; i++) {
    append(log, 'y'.repeat(200))
    log.trim(1_024, 100)
    log.release(Infinity)
  }
  log.clear()
  t.equal(slice.bytes.toString(), 'x'.repeat(200))
})

test('a slice stays valid after the log was compacted', async (t) => {
  const log = logOf(['aaaa', 'bb'])
  const slice = log.read(0, 65_536)
  log.compact()
  t.equal(slice.bytes.toString(), 'aaaabb')
  t.not(slice.bytes.buffer, log.read(0, 65_536).bytes.buffer)
})

test('memory is held until nobody can be writing it any more', async (t) => {
  const log = new EventLog(8 * 1_024)
  for (let i = 0; i < 100; i++) append(log, 'x'.repeat(500))
  const before = log.heldBytes
  log.trim(1_000, 100)
  t.ok(log.hasTrimmedSegments)
  log.release(0)
  t.equal(log.heldBytes, before, 'somebody may be writing the first byte')
  log.release(log.startOffset)
  t.ok(log.heldBytes < before)
  t.ok(log.heldBytes >= log.wireBytes)
  t.equal(readAll(log, log.startOffset, 65_536), 'x'.repeat(1_000))
})

test('a frame larger than a segment gets one of its own', async (t) => {
  const log = new EventLog(8_000)
  append(log, 'a'.repeat(100))
  append(log, 'b'.repeat(5_000))
  append(log, 'c'.repeat(100))
  t.ok(log.heldBytes < 100 + 5_000 + 100 + 3 * 1_024)
  t.equal(readAll(log, 0, 65_536), 'a'.repeat(100) + 'b'.repeat(5_000) + 'c'.repeat(100))
})

test('a segment is at most an eighth of the limit, and a short log costs one small one', async (t) => {
  const log = new EventLog(64 * 1_024)
  append(log, 'x')
  t.ok(log.heldBytes <= 512)
  let largest = 0
  for (let i = 0; i < 10_000; i++) {
    const before = log.heldBytes
    append(log, 'x'.repeat(50))
    largest = Math.max(largest, log.heldBytes - before)
  }
  t.ok(largest <= 8 * 1_024)
})

test('growthFor says what the next frame will take', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4_096 }), fc.array(fc.nat({ max: 600 }), { minLength: 1 }), (max, sizes) => {
      const log = new EventLog(max)
      for (const size of sizes) {
        const before = log.heldBytes
        const growth = log.growthFor(size + 1)
        append(log, 'x'.repeat(size + 1))
        assert.equal(log.heldBytes, before + growth)
      }
    })
  )
})

test('a trimmed segment takes the rest of its events along', async (t) => {
  const log = new EventLog(1_024)
  for (let i = 0; i < 10; i++) append(log, 'x'.repeat(100))
  t.ok(log.trimSegment())
  t.ok(log.firstSequence > 1)
  t.equal(log.startOffset, (log.firstSequence - 1) * 100)
  while (log.trimSegment());
  t.equal(log.events, 0)
  t.equal(log.firstSequence, 11)
  t.equal(log.wireBytes, 0)
  append(log, 'y')
  t.equal(log.firstSequence, 11)
  t.equal(readAll(log, 1_000, 65_536), 'y')
})

test('a cleared log is empty and goes on counting', async (t) => {
  const log = logOf(['a', 'b'])
  log.clear()
  t.equal(log.heldBytes, 0)
  t.equal(log.events, 0)
  t.equal(log.firstSequence, 3)
  t.equal(log.lastSequence, 2)
  t.equal(log.offsetAfter(2), 2)
})

test('a compacted log holds what is needed and no more', async (t) => {
  const log = new EventLog(1024 * 1024)
  append(log, 'a'.repeat(50))
  append(log, 'b'.repeat(50))
  log.compact()
  t.equal(log.heldBytes, 100 + 2 * 4)
  t.equal(readAll(log, 0, 65_536), 'a'.repeat(50) + 'b'.repeat(50))
  const empty = new EventLog(1_024)
  empty.compact()
  t.equal(empty.heldBytes, 0)
})

test('a log that is over before anybody reads it is one slice', async (t) => {
  const log = new EventLog(1_000_000)
  const frames = Array.from({ length: 30 }, (_, i) => `${i}`.padStart(100, 'x'))
  for (const frame of frames) append(log, frame)
  log.compact()
  t.equal(log.heldBytes, 30 * (100 + 4))
  t.equal(log.read(0, 65_536).bytes.toString(), frames.join(''))
})

test('a large compacted log gives back the rest of its last segment', async (t) => {
  const log = new EventLog(16 * 1_024)
  for (let i = 0; i < 100; i++) append(log, 'x'.repeat(100))
  const before = log.heldBytes
  log.compact()
  t.ok(log.heldBytes < before)
  t.equal(readAll(log, 0, 65_536), 'x'.repeat(10_000))
})

test('a log that holds segments for a slow client is not compacted under it', async (t) => {
  const log = new EventLog(8 * 1_024)
  for (let i = 0; i < 100; i++) append(log, 'x'.repeat(500))
  log.trim(1_000, 100)
  const before = log.heldBytes
  log.compact()
  t.equal(log.heldBytes, before)
})

type Command =
  | { readonly kind: 'append'; readonly text: string }
  | { readonly kind: 'trim'; readonly bytes: number; readonly events: number }
  | { readonly kind: 'trimSegment' }
  | { readonly kind: 'compact' }
  | { readonly kind: 'clear' }
  | { readonly kind: 'release'; readonly share: number }
  | { readonly kind: 'read'; readonly share: number; readonly maxBytes: number }

const frameText = fc.oneof(
  fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }).filter((text) => text.isWellFormed()),
  fc.integer({ min: 1, max: 700 }).map((length) => 'x'.repeat(length))
)

const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('append'), text: frameText }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('trim'),
      bytes: fc.integer({ min: 700, max: 3_000 }),
      events: fc.integer({ min: 1, max: 20 })
    })
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('release'), share: fc.double({ min: 0, max: 1, noNaN: true }) })
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('read'),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
      maxBytes: fc.integer({ min: 1, max: 2_000 })
    })
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('trimSegment', 'compact', 'clear') }) }
)

function run(command: Command, log: EventLog, naive: NaiveLog): void {
  if (command.kind === 'append') {
    append(log, command.text)
    naive.frames.push(command.text)
  } else if (command.kind === 'trim') {
    log.trim(command.bytes, command.events)
    naive.trim(command.bytes, command.events)
  } else if (command.kind === 'trimSegment') {
    assert.equal(log.trimSegment(), naive.events > 0)
    const first = log.firstSequence - 1
    assert.ok(first > naive.first || naive.events === 0)
    naive.first = first
  } else if (command.kind === 'clear') {
    log.clear()
    assert.equal(log.heldBytes, 0)
    naive.first = naive.frames.length
  } else if (command.kind === 'compact') {
    const before = log.heldBytes
    log.compact()
    assert.ok(log.heldBytes <= before)
  } else if (command.kind === 'release') {
    const before = log.heldBytes
    log.release(Math.floor(command.share * log.endOffset))
    assert.ok(log.heldBytes <= before)
  } else {
    const from = naive.first + Math.floor(command.share * naive.events)
    const offset = log.offsetAfter(from)
    assert.equal(offset, naive.offsetOf(from))
    assert.equal(readAll(log, offset, command.maxBytes), naive.frames.slice(from).join(''))
    if (offset === log.endOffset) return
    const { bytes, lastSequence } = log.read(offset, command.maxBytes)
    const whole = naive.frames.slice(0, lastSequence)
    assert.ok(byteLength(whole) <= offset + bytes.length, 'the last event ends inside the slice')
    assert.ok(lastSequence === naive.frames.length || naive.offsetOf(lastSequence + 1) > offset + bytes.length)
  }
}

test('a log does what an array of frames would do', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 40_000 }),
      fc.array(command, { minLength: 1, maxLength: 80 }),
      (maxBytes, commands) => {
        const log = new EventLog(maxBytes)
        const naive = new NaiveLog()
        for (const step of commands) {
          run(step, log, naive)
          assert.equal(log.firstSequence, naive.first + 1)
          assert.equal(log.lastSequence, naive.frames.length)
          assert.equal(log.events, naive.events)
          assert.equal(log.wireBytes, naive.wireBytes)
          assert.equal(log.startOffset, naive.offsetOf(naive.first))
          assert.equal(log.endOffset, naive.offsetOf(naive.frames.length))
          assert.ok(log.heldBytes >= log.wireBytes + 4 * log.events, 'the frames and their index are held')
        }
      }
    ),
    { numRuns: 500 }
  )
})

test('memory that nobody needs is given back: held bytes stay near the limits', async () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 50, maxLength: 400 }), (sizes) => {
      const maxBytes = 8 * 1_024
      const log = new EventLog(maxBytes)
      for (const size of sizes) {
        append(log, 'x'.repeat(size))
        log.trim(maxBytes, 100)
        log.release(Infinity)
        // One segment may be partly trimmed, another partly filled; the index is 4 bytes per event, gaps at segment ends
        // are smaller than the frame that did not fit.
        const slack = 2 * (maxBytes / 8) + 4 * log.events + 10 * 500
        assert.ok(log.heldBytes <= log.wireBytes + slack, `${log.heldBytes} for ${log.wireBytes}`)
      }
    })
  )
})

test('batches give the frames one by one, whole, from any event on', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 60 }),
      fc.integer({ min: 1, max: 2_000 }),
      fc.nat({ max: 60 }),
      fc.nat({ max: 60 }),
      (frames, maxBytes, trimmed, from) => {
        const log = logOf(frames)
        log.trimTo(Math.min(trimmed + 1, frames.length))
        const got: string[] = []
        let after = Math.max(log.firstSequence - 1, Math.min(from, frames.length))
        const start = after
        for (
          let batch = log.batchAfter(after, maxBytes);
          batch !== undefined;
          batch = log.batchAfter(after, maxBytes)
        ) {
          assert.equal(batch.firstSequence, after + 1)
          assert.ok(batch.lengths.length === 1 || batch.frames.length <= maxBytes)
          let offset = 0
          for (const bytes of batch.lengths) got.push(batch.frames.toString('utf8', offset, (offset += bytes)))
          assert.equal(offset, batch.frames.length)
          after += batch.lengths.length
        }
        assert.deepEqual(
          got,
          frames.slice(start).map((frame) => Buffer.from(frame).toString())
        )
      }
    )
  )
})

test('the front of the window is moved to an event, never beyond the newest', async (t) => {
  const log = logOf(['a', 'b', 'c'])
  log.trimTo(3)
  t.match(log, { firstSequence: 3, lastSequence: 3, wireBytes: 1 })
  log.trimTo(2)
  t.equal(log.firstSequence, 3, 'never back')
  log.trimTo(9)
  t.match(log, { firstSequence: 4, lastSequence: 3, events: 0 })
})

test('a log goes on after a hole, and no position before the hole is one after it', async (t) => {
  const log = logOf(['a', 'b'])
  const atTheEnd = log.endOffset
  log.skipTo(9)
  t.match(log, { firstSequence: 10, lastSequence: 9, events: 0, wireBytes: 0 })
  t.ok(log.startOffset > atTheEnd)
  append(log, 'j')
  t.equal(log.read(log.offsetAfter(9), 100).bytes.toString(), 'j')
  t.match(log.batchAfter(9, 100), { firstSequence: 10, lengths: [1] })
  log.release(Infinity)
  t.equal(log.heldBytes, 128, 'what lies before the hole is given back')
})

test('a log may begin anywhere', async (t) => {
  const log = new EventLog(1_024)
  log.skipTo(41)
  log.append(Buffer.from('answer'), 6)
  t.match(log, { firstSequence: 42, lastSequence: 42, events: 1 })
  t.equal(readAll(log, log.offsetAfter(41), 100), 'answer')
})
