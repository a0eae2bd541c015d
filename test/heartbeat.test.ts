import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { Heartbeat, type Watched } from '../src/heartbeat.ts'
import { ManualClock } from './helpers/manual-clock.ts'

/** Wants to be looked at at the times of its list, and remembers when it was. */
class Watchee implements Watched {
  heapIndex = -1
  dueAt = Infinity
  readonly looks: number[] = []
  readonly #next: (now: number) => number

  constructor(next: (now: number) => number = () => Infinity) {
    this.#next = next
  }

  onDue(now: number): number {
    this.looks.push(now)
    return this.#next(now)
  }
}

test('what is watched is looked at when it is due, and not before', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  const watchee = new Watchee()
  const dueAt = clock.now() + 100
  heartbeat.watch(watchee, dueAt)
  clock.advance(99)
  t.strictSame(watchee.looks, [])
  clock.advance(1)
  t.strictSame(watchee.looks, [dueAt])
  t.equal(heartbeat.size, 0, 'it wants no further look')
  t.equal(clock.pending, 0)
})

test('a look says when the next one is', async (t) => {
  const clock = new ManualClock()
  const start = clock.now()
  const heartbeat = new Heartbeat(clock)
  const watchee = new Watchee((now) => now + 10)
  heartbeat.watch(watchee, start + 10)
  clock.advance(35)
  t.strictSame(
    watchee.looks.map((at) => at - start),
    [10, 20, 30]
  )
})

test('a look that wants another at once gets it later, so that a round ends', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  const watchee = new Watchee((now) => now)
  heartbeat.watch(watchee, clock.now() + 1)
  clock.advance(1)
  t.equal(watchee.looks.length, 1)
  clock.advance(1)
  t.equal(watchee.looks.length, 2)
})

test('a thousand responses share one timer', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  for (let i = 0; i < 1_000; i++) heartbeat.watch(new Watchee((now) => now + 1_000), clock.now() + 1 + i)
  t.equal(clock.pending, 1)
  clock.advance(5_000)
  t.equal(clock.pending, 1)
})

test('never is not watched', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  heartbeat.watch(new Watchee(), Infinity)
  t.equal(heartbeat.size, 0)
  t.equal(clock.pending, 0)
})

test('what is watched already is looked at at the earlier of both times', async (t) => {
  const clock = new ManualClock()
  const start = clock.now()
  const heartbeat = new Heartbeat(clock)
  const watchee = new Watchee()
  heartbeat.watch(watchee, start + 100)
  heartbeat.watch(watchee, start + 50)
  heartbeat.watch(watchee, start + 200)
  t.equal(heartbeat.size, 1)
  clock.advance(300)
  t.strictSame(watchee.looks, [start + 50])
})

test('what is not watched any more is not looked at, and the last one takes the timer along', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  const first = new Watchee()
  const second = new Watchee()
  heartbeat.watch(first, clock.now() + 10)
  heartbeat.watch(second, clock.now() + 20)
  heartbeat.unwatch(first)
  heartbeat.unwatch(first)
  t.equal(heartbeat.size, 1)
  clock.advance(20)
  t.strictSame([first.looks.length, second.looks.length], [0, 1])
  heartbeat.watch(first, clock.now() + 10)
  heartbeat.unwatch(first)
  t.equal(clock.pending, 0)
})

test('one that is unwatched during its own look stays out', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  const watchee: Watchee = new Watchee((now) => {
    heartbeat.unwatch(watchee)
    return now + 10
  })
  heartbeat.watch(watchee, clock.now() + 10)
  clock.advance(100)
  t.equal(watchee.looks.length, 1)
  t.equal(clock.pending, 0)
})

test('a time further away than a timer reaches is waited for in steps', async (t) => {
  const clock = new ManualClock()
  const heartbeat = new Heartbeat(clock)
  const watchee = new Watchee()
  heartbeat.watch(watchee, clock.now() + 5_000_000_000)
  t.ok((clock.nextIn as number) <= 2_147_483_647)
  clock.advance(4_999_999_999)
  t.equal(watchee.looks.length, 0)
  clock.advance(1)
  t.equal(watchee.looks.length, 1)
})

type Command =
  | { readonly kind: 'watch'; readonly index: number; readonly inMs: number }
  | { readonly kind: 'unwatch'; readonly index: number }
  | { readonly kind: 'advance'; readonly ms: number }

const COUNT = 12

const command: fc.Arbitrary<Command> = fc.oneof(
  fc.record({
    kind: fc.constant('watch'),
    index: fc.nat({ max: COUNT - 1 }),
    inMs: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constant(Infinity))
  }),
  fc.record({ kind: fc.constant('unwatch'), index: fc.nat({ max: COUNT - 1 }) }),
  fc.record({ kind: fc.constant('advance'), ms: fc.integer({ min: 1, max: 30 }) })
)

test('the heap does what a list that is searched would do', async () => {
  fc.assert(
    fc.property(fc.array(command, { maxLength: 120 }), (commands) => {
      const clock = new ManualClock()
      const heartbeat = new Heartbeat(clock)
      // Each wants another look after a time of its own, every third one never.
      const period = (index: number): number => (index % 3 === 0 ? Infinity : 5 + index)
      const watchees = Array.from({ length: COUNT }, (_, index) => new Watchee((now) => now + period(index)))
      const dueAt: number[] = Array.from({ length: COUNT }, () => Infinity)
      const looks: number[][] = Array.from({ length: COUNT }, () => [])
      for (const step of commands) {
        if (step.kind === 'watch') {
          const at = clock.now() + step.inMs
          heartbeat.watch(watchees[step.index] as Watchee, at)
          dueAt[step.index] = Math.min(dueAt[step.index] as number, at)
        } else if (step.kind === 'unwatch') {
          heartbeat.unwatch(watchees[step.index] as Watchee)
          dueAt[step.index] = Infinity
        } else {
          const end = clock.now() + step.ms
          clock.advance(step.ms)
          for (let index = 0; index < COUNT; index++) {
            while ((dueAt[index] as number) <= end) {
              looks[index]?.push(dueAt[index] as number)
              dueAt[index] = (dueAt[index] as number) + period(index)
            }
          }
        }
        assert.deepEqual(
          watchees.map((watchee) => watchee.looks),
          looks
        )
        assert.equal(heartbeat.size, dueAt.filter((at) => at !== Infinity).length)
        assert.ok(clock.pending <= 1, 'one timer')
        assert.equal(clock.pending, heartbeat.size > 0 ? 1 : 0)
      }
    }),
    { numRuns: 500 }
  )
})
