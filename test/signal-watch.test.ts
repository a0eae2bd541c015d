import { getEventListeners } from 'node:events'
import t from 'tap'
import { SignalWatch } from '../src/signal-watch.ts'

t.test('a signal has one listener, however many watch it', async (t) => {
  const { signal } = new AbortController()
  const signals = new SignalWatch()
  const watching = Array.from({ length: 20 }, () => (): void => {})
  for (const onAbort of watching) signals.watch(signal, onAbort)
  t.equal(getEventListeners(signal, 'abort').length, 1)
  for (const onAbort of watching.slice(1)) signals.unwatch(signal, onAbort)
  t.equal(getEventListeners(signal, 'abort').length, 1)
  signals.unwatch(signal, watching[0] as () => void)
  t.equal(getEventListeners(signal, 'abort').length, 0)
})

t.test('an abort is told to all that watch the signal, and to nobody else', async (t) => {
  const controller = new AbortController()
  const other = new AbortController()
  const signals = new SignalWatch()
  const told: string[] = []
  const first = (): void => {
    told.push('first')
    signals.unwatch(controller.signal, first)
  }
  signals.watch(controller.signal, first)
  signals.watch(controller.signal, () => told.push('second'))
  signals.watch(other.signal, () => told.push('other'))
  controller.abort()
  t.strictSame(told, ['first', 'second'])
})

t.test('unwatching twice, or what was never watched, changes nothing', async (t) => {
  const { signal } = new AbortController()
  const signals = new SignalWatch()
  signals.unwatch(signal, () => {})
  t.equal(getEventListeners(signal, 'abort').length, 0)
})
