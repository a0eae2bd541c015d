import { test } from 'tap'
import { Turn, type Task } from '../src/turn.ts'
import { ManualClock } from './helpers/manual-clock.ts'
import { turn as nextTurn } from './helpers/turns.ts'

function task(run: () => void): Task {
  return { run }
}

test('what is left for the end of a turn runs after everything of this turn, in order', async (t) => {
  const turn = new Turn(new ManualClock())
  const order: string[] = []
  turn.atEnd(task(() => order.push('a')))
  turn.atEnd(task(() => order.push('b')))
  await Promise.resolve().then(() => order.push('microtask'))
  await nextTurn()
  t.strictSame(order, ['microtask', 'a', 'b'])
})

test('what is left for later runs after the flushes', async (t) => {
  const turn = new Turn(new ManualClock())
  const order: string[] = []
  turn.later(task(() => order.push('later')))
  turn.atEnd(task(() => order.push('end')))
  await nextTurn()
  t.strictSame(order, ['end', 'later'])
})

test('a task that queues itself runs once per turn', async (t) => {
  const turn = new Turn(new ManualClock())
  let runs = 0
  const again = task(() => {
    runs += 1
    if (runs < 5) turn.later(again)
  })
  turn.later(again)
  await nextTurn()
  t.ok(runs < 5)
  await nextTurn()
  await nextTurn()
  await nextTurn()
  t.equal(runs, 5)
})

test('the time of a turn stands still within it', async (t) => {
  const clock = new ManualClock()
  const turn = new Turn(clock)
  const began = turn.now
  clock.advance(100)
  t.equal(turn.now, began)
  await nextTurn()
  t.equal(turn.now, began + 100)
})

test('a turn is spent after a few milliseconds', async (t) => {
  const clock = new ManualClock()
  const turn = new Turn(clock)
  t.notOk(turn.isSpent())
  clock.advance(5)
  t.notOk(turn.isSpent())
  clock.advance(1)
  t.ok(turn.isSpent())
  await nextTurn()
  t.notOk(turn.isSpent(), 'the next one begins anew')
})

test('a turn is spent after many steps, whatever the clock says', async (t) => {
  const turn = new Turn(new ManualClock())
  let steps = 0
  while (!turn.isSpent()) steps += 1
  t.ok(steps > 100 && steps < 100_000)
})

test('a spent turn leaves the rest of its tasks to the next, in order, but does at least one', async (t) => {
  const clock = new ManualClock()
  const turn = new Turn(clock)
  const order: string[] = []
  const slow = (name: string): Task =>
    task(() => {
      order.push(name)
      clock.advance(6)
    })
  turn.atEnd(task(() => clock.advance(6)))
  for (const name of ['a', 'b', 'c']) turn.later(slow(name))
  await new Promise(setImmediate)
  t.strictSame(order, ['a'])
  turn.later(slow('d'))
  await nextTurn()
  await nextTurn()
  t.strictSame(order, ['a', 'b', 'c', 'd'])
})

test('of those that pull, few go on per turn, and each in its turn', async (t) => {
  const turn = new Turn(new ManualClock())
  const order: number[] = []
  for (let i = 0; i < 100; i++) turn.pullLater(task(() => order.push(i)))
  await nextTurn()
  t.ok(order.length > 0 && order.length < 50, `${order.length}`)
  while (order.length < 100) await nextTurn()
  t.strictSame(
    order,
    Array.from({ length: 100 }, (_, i) => i)
  )
})

test('an idle turn asks for nothing of the event loop', async (t) => {
  const turn = new Turn(new ManualClock())
  turn.later(task(() => {}))
  await nextTurn()
  await nextTurn()
  const { setImmediate: original } = globalThis
  t.teardown(() => (globalThis.setImmediate = original))
  let calls = 0
  globalThis.setImmediate = ((...args: Parameters<typeof original>) => {
    calls += 1
    return original(...args)
  }) as typeof original
  await new Promise((resolve) => original(resolve))
  t.equal(calls, 0)
  turn.atEnd(task(() => {}))
  turn.atEnd(task(() => {}))
  t.equal(calls, 1, 'one immediate per turn')
})
