import { test } from 'tap'
import { EventLog } from '../src/event-log.ts'
import { Pace, type MirrorReader, type Reader } from '../src/pace.ts'
import { resolvePluginOptions } from '../src/settings.ts'

type Backpressure = 'fastest' | 'slowest' | 'none'

// A log of up to 400 bytes and 40 events: 100 bytes or 10 events are read ahead.
function createPace(backpressure: Backpressure): {
  pace: Pace
  log: EventLog
  append: (bytes: number) => void
  attach: () => Reader & { readAll(): void }
  detach: (reader: Reader) => void
} {
  const settings = resolvePluginOptions({ bufferBytes: 400, bufferSize: 40, backpressure }).stream
  const log = new EventLog(settings.maxBytes)
  const readers = new Set<Reader>()
  const pace = new Pace(settings, log, readers)
  return {
    pace,
    log,
    append: (bytes) => log.append('x'.repeat(bytes), bytes),
    attach: () => {
      const reader = {
        offset: log.startOffset,
        sequence: log.firstSequence - 1,
        heldFrom: 0,
        pump: () => {},
        readAll() {
          this.offset = log.endOffset
          this.sequence = log.lastSequence
        }
      }
      readers.add(reader)
      pace.onAttached()
      return reader
    },
    detach: (reader) => {
      readers.delete(reader)
      pace.onDetached(reader)
    }
  }
}

test('fastest runs free while nobody is attached', async (t) => {
  const { pace, append, attach, detach } = createPace('fastest')
  append(390)
  t.notOk(pace.isTooFarAhead(300))
  const reader = attach()
  detach(reader)
  t.notOk(pace.isTooFarAhead(300))
})

test('a quarter of the bytes is read ahead', async (t) => {
  const { pace, append, attach } = createPace('fastest')
  attach()
  append(50)
  t.notOk(pace.isTooFarAhead(50))
  t.ok(pace.isTooFarAhead(51))
})

test('a quarter of the events is read ahead', async (t) => {
  const { pace, append, attach } = createPace('fastest')
  attach()
  for (let i = 0; i < 9; i++) append(1)
  t.notOk(pace.isTooFarAhead(1))
  append(1)
  t.ok(pace.isTooFarAhead(1))
})

test('a single event larger than the read-ahead passes to whoever has everything', async (t) => {
  const { pace, append, attach } = createPace('fastest')
  const reader = attach()
  t.notOk(pace.isTooFarAhead(400))
  append(400)
  t.ok(pace.isTooFarAhead(1))
  reader.readAll()
  t.notOk(pace.isTooFarAhead(400))
})

test('fastest is paced by the client that is furthest ahead', async (t) => {
  const { pace, append, attach } = createPace('fastest')
  const slow = attach()
  const fast = attach()
  append(100)
  t.ok(pace.isTooFarAhead(1))
  fast.readAll()
  t.notOk(pace.isTooFarAhead(100))
  t.equal(slow.offset, 0)
})

test('slowest is paced by the client that is furthest behind', async (t) => {
  const { pace, append, attach, detach } = createPace('slowest')
  const slow = attach()
  const fast = attach()
  append(100)
  fast.readAll()
  t.ok(pace.isTooFarAhead(1))
  detach(slow)
  t.notOk(pace.isTooFarAhead(100), 'only who is attached counts')
})

test('a client that attaches further behind paces slowest from then on', async (t) => {
  const { pace, append, attach } = createPace('slowest')
  const reader = attach()
  append(100)
  reader.readAll()
  t.notOk(pace.isTooFarAhead(1))
  attach()
  t.ok(pace.isTooFarAhead(1))
})

test('slowest with nobody yet waits when the log is full', async (t) => {
  const { pace, append } = createPace('slowest')
  append(200)
  t.notOk(pace.isTooFarAhead(200))
  t.ok(pace.isTooFarAhead(201))
  for (let i = 0; i < 38; i++) append(1)
  t.notOk(pace.isTooFarAhead(1))
  append(1)
  t.ok(pace.isTooFarAhead(1))
})

test('slowest with nobody any more waits where the last client stood', async (t) => {
  const { pace, append, attach, detach } = createPace('slowest')
  append(200)
  const reader = attach()
  reader.readAll()
  detach(reader)
  append(60)
  t.notOk(pace.isTooFarAhead(40))
  t.ok(pace.isTooFarAhead(41))
})

test('none waits for nobody', async (t) => {
  const { pace, append, attach } = createPace('none')
  attach()
  for (let i = 0; i < 40; i++) append(10)
  t.notOk(pace.isTooFarAhead(400))
})

test('only slowest promises that nothing is trimmed before it was read', async (t) => {
  for (const backpressure of ['fastest', 'none'] as const) {
    const { pace, append, attach } = createPace(backpressure)
    attach()
    append(10)
    t.notOk(pace.isPromisedAll)
  }
  const { pace, append, attach, detach } = createPace('slowest')
  t.notOk(pace.isPromisedAll, 'there is nothing')
  append(10)
  t.ok(pace.isPromisedAll, 'nobody has read it yet')
  const reader = attach()
  t.ok(pace.isPromisedAll)
  reader.readAll()
  t.notOk(pace.isPromisedAll)
  detach(reader)
  t.notOk(pace.isPromisedAll)
  append(10)
  t.ok(pace.isPromisedAll)
})

function createMirror(): { -readonly [Key in keyof MirrorReader]: MirrorReader[Key] } {
  return {
    offset: 0,
    sequence: 0,
    heldFrom: 0,
    isPacing: true,
    others: undefined,
    hasClients: false,
    pump() {},
    lookForClients() {},
    onAwaited() {}
  }
}

test('a mirror is waited for like the slowest client, unless it is detached or nobody paces', async (t) => {
  for (const backpressure of ['fastest', 'slowest', 'none'] as const) {
    const { pace, append, attach } = createPace(backpressure)
    const mirror = createMirror()
    pace.mirror = mirror
    append(90)
    attach().readAll()
    t.equal(pace.isTooFarAhead(20), backpressure !== 'none', backpressure)
    t.equal(pace.isPromisedAll, backpressure === 'slowest')
    mirror.isPacing = false
    t.notOk(pace.isTooFarAhead(20), `${backpressure}, detached`)
    t.notOk(pace.isPromisedAll)
  }
})

test('clients on other instances pace as those here do', async (t) => {
  for (const backpressure of ['fastest', 'slowest'] as const) {
    const { pace, log, append, attach } = createPace(backpressure)
    const mirror = createMirror()
    pace.mirror = mirror
    mirror.others = { offset: 0, sequence: 0 }
    append(90)
    const all = { offset: log.endOffset, sequence: log.lastSequence }
    Object.assign(mirror, all)
    t.ok(pace.isTooFarAhead(20), 'it is behind')
    mirror.others = all
    pace.onOthersMoved()
    t.notOk(pace.isTooFarAhead(20), 'it has everything')
    t.notOk(pace.isPromisedAll)
    const reader = attach()
    t.equal(pace.isTooFarAhead(20), backpressure === 'slowest', 'one here is behind')
    reader.readAll()
    mirror.others = { offset: 0, sequence: 0 }
    pace.onOthersMoved()
    t.equal(pace.isTooFarAhead(20), backpressure === 'slowest', 'another one is behind')
    t.equal(pace.isPromisedAll, backpressure === 'slowest')
  }
})
