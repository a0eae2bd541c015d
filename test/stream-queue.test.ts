import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import type { EventStream } from '../src/event-stream.ts'
import { StreamQueue } from '../src/stream-queue.ts'

// A queue reads nothing of a stream but its links.
function streams(count: number): EventStream[] {
  return Array.from({ length: count }, () => {
    const links = { queue: undefined, previous: undefined, next: undefined }
    return { links } as unknown as EventStream
  })
}

function content(queue: StreamQueue<EventStream>): EventStream[] {
  const found: EventStream[] = []
  for (let stream = queue.first; stream !== undefined; stream = stream.links.next) found.push(stream)
  return found
}

test('streams leave in the order in which they came', async (t) => {
  const queue = new StreamQueue<EventStream>()
  const [a, b, c] = streams(3) as [EventStream, EventStream, EventStream]
  for (const stream of [a, b, c]) queue.push(stream)
  t.strictSame(content(queue).indexOf(a), 0)
  t.equal(queue.first, a)
  queue.remove(a)
  t.equal(queue.first, b)
  t.equal(queue.size, 2)
})

test('a stream that is pushed again goes to the back', async (t) => {
  const queue = new StreamQueue<EventStream>()
  const [a, b] = streams(2) as [EventStream, EventStream]
  queue.push(a)
  queue.push(b)
  queue.push(a)
  t.equal(queue.first, b)
  t.equal(queue.size, 2)
})

test('queues do what arrays would do, and a stream stands in one of them', async () => {
  const step = fc.record({ stream: fc.nat({ max: 5 }), to: fc.constantFrom(0, 1, undefined) })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const all = streams(6)
      const queues = [new StreamQueue<EventStream>(), new StreamQueue<EventStream>()]
      const arrays: EventStream[][] = [[], []]
      for (const { stream: index, to } of steps) {
        const stream = all[index] as EventStream
        if (to === undefined) stream.links.queue?.remove(stream)
        else queues[to]?.push(stream)
        for (const array of arrays) if (array.includes(stream)) array.splice(array.indexOf(stream), 1)
        if (to !== undefined) arrays[to]?.push(stream)
        queues.forEach((queue, i) => {
          assert.deepEqual(
            content(queue).map((one) => all.indexOf(one)),
            arrays[i]?.map((one) => all.indexOf(one))
          )
          assert.equal(queue.size, arrays[i]?.length)
        })
      }
    })
  )
})
