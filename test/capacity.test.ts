import { test } from 'tap'
import { Capacity } from '../src/capacity.ts'
import type { EventStream } from '../src/event-stream.ts'

interface FakeStream {
  readonly name: string
  clients: number
  isHome: boolean
  isFinished: boolean
  readonly links: object
}

function createStreams(capacity: Capacity, ...names: string[]): FakeStream[] {
  return names.map((name) => {
    const links = { queue: undefined, previous: undefined, next: undefined }
    const stream: FakeStream = { name, clients: 0, isHome: true, isFinished: false, links }
    capacity.place(stream as unknown as EventStream)
    return stream
  })
}

function change(capacity: Capacity, stream: FakeStream | undefined, changes: Partial<FakeStream>): void {
  Object.assign(stream as FakeStream, changes)
  capacity.place(stream as unknown as EventStream)
}

function nameOf(stream: EventStream | undefined): string | undefined {
  return (stream as unknown as FakeStream | undefined)?.name
}

test('an empty registry has nobody who could give way', async (t) => {
  const capacity = new Capacity()
  t.equal(capacity.nextFinished(), undefined)
  t.equal(capacity.nextRunning(), undefined)
})

test('of the finished streams the oldest finish gives way first', async (t) => {
  const capacity = new Capacity()
  const [a, b] = createStreams(capacity, 'a', 'b')
  change(capacity, b, { isFinished: true })
  change(capacity, a, { isFinished: true })
  t.equal(nameOf(capacity.nextFinished()), 'b')
  t.equal(capacity.finished, 2)
})

test('a finished stream with clients gives way after those without', async (t) => {
  const capacity = new Capacity()
  const [a, b] = createStreams(capacity, 'a', 'b')
  change(capacity, a, { isFinished: true, clients: 1 })
  t.equal(nameOf(capacity.nextFinished()), 'a')
  change(capacity, b, { isFinished: true })
  t.equal(nameOf(capacity.nextFinished()), 'b')
  change(capacity, a, { clients: 0 })
  t.equal(nameOf(capacity.nextFinished()), 'a', 'its finish is still the oldest')
})

test('of the running streams the one that has been alone longest gives way first', async (t) => {
  const capacity = new Capacity()
  const [a, b, c] = createStreams(capacity, 'a', 'b', 'c')
  t.equal(nameOf(capacity.nextRunning()), 'a')
  change(capacity, a, { clients: 1 })
  t.equal(nameOf(capacity.nextRunning()), 'b')
  change(capacity, b, { clients: 1 })
  change(capacity, c, { clients: 1 })
  change(capacity, c, { clients: 0 })
  change(capacity, b, { clients: 0 })
  t.equal(nameOf(capacity.nextRunning()), 'c')
})

test('of the running streams with clients the one whose clients changed longest ago gives way first', async (t) => {
  const capacity = new Capacity()
  const [a, b] = createStreams(capacity, 'a', 'b')
  change(capacity, a, { clients: 1 })
  change(capacity, b, { clients: 1 })
  t.equal(nameOf(capacity.nextRunning()), 'a')
  change(capacity, a, { clients: 2 })
  t.equal(nameOf(capacity.nextRunning()), 'b')
  change(capacity, b, { clients: 0 })
  change(capacity, b, { clients: 1 })
  t.equal(nameOf(capacity.nextRunning()), 'a')
})

test('a forgotten stream does not give way any more', async (t) => {
  const capacity = new Capacity()
  const [a, b] = createStreams(capacity, 'a', 'b')
  capacity.forget(a as unknown as EventStream)
  capacity.forget(a as unknown as EventStream)
  t.equal(nameOf(capacity.nextRunning()), 'b')
  change(capacity, b, { isFinished: true })
  capacity.forget(b as unknown as EventStream)
  t.equal(capacity.finished, 0)
  t.equal(capacity.nextRunning(), undefined)
})
