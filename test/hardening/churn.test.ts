import { fork } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { setImmediate as nextImmediate } from 'node:timers/promises'
import t from 'tap'
import type { ChurnReport } from '../fixtures/churn.ts'
import { startApp } from '../helpers/start-app.ts'

const STREAMS = 50_000
// What is compiled and cached once is in the heap after these; what a stream leaves behind is not.
const WARM_UP = 20_000

const HEAP_TOLERANCE = 0.05

t.test(`${STREAMS} streams through every way of ending leave nothing behind`, async (t) => {
  const child = fork(new URL('../fixtures/churn.ts', import.meta.url), [String(STREAMS - WARM_UP), String(WARM_UP)], {
    execArgv: ['--expose-gc', '--import', import.meta.resolve('tsx')]
  })
  t.teardown(() => child.kill('SIGKILL'))
  const exited = once(child, 'exit')
  const [report] = (await Promise.race([
    once(child, 'message'),
    exited.then(([code]) => Promise.reject(new Error(`The process died (${code})`)))
  ])) as [ChurnReport]

  const { stats, heapBytes } = report
  t.equal(stats.started, STREAMS + 1)
  t.equal(stats.completed + stats.failed + stats.aborted + stats.evicted, stats.started)
  for (const way of ['completed', 'failed', 'aborted', 'evicted', 'expired', 'removedForCapacity'] as const) {
    t.ok(stats[way] > 100, `${stats[way]} ${way}`)
  }
  const { running, finished, clients, bufferedEvents, bufferedBytes } = stats
  t.strictSame(
    { running, finished, clients, bufferedEvents, bufferedBytes },
    { running: 0, finished: 0, clients: 0, bufferedEvents: 0, bufferedBytes: 0 }
  )
  t.equal(report.size, 0)
  t.equal(report.timers, 0, 'no timer is armed')
  t.equal(report.signalListeners, 0, 'no listener on the signal of the application')
  t.equal(report.connections, 0, 'no socket is open')
  t.equal(report.socketListeners[1], report.socketListeners[0], 'no listener has piled up on a kept connection')
  t.strictSame(report.warnings, [], 'no MaxListenersExceededWarning')
  const growth = (heapBytes[1] - heapBytes[0]) / heapBytes[0]
  t.ok(growth < HEAP_TOLERANCE, `the heap went from ${heapBytes[0]} to ${heapBytes[1]} bytes`)
  const [code] = (await exited) as [number | null]
  t.equal(code, 0, 'and the process ends by itself')
})

t.test(
  'many streams under one signal of the application cost no warning, and no listener when they are over',
  async (t) => {
    const warnings: Error[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning)
    process.on('warning', onWarning)
    t.teardown(() => process.removeListener('warning', onWarning))
    const shuttingDown = new AbortController()
    const { fastify } = await startApp(t, () => {})
    const handler = async function* (signal: AbortSignal): AsyncGenerator<string> {
      await once(signal, 'abort')
    }
    for (let i = 0; i < 50; i++) await fastify.sseStreams.start(handler, { signal: shuttingDown.signal })
    await nextImmediate()
    t.strictSame(warnings, [])
    shuttingDown.abort()
    t.equal(fastify.sseStreams.stats().aborted, 50)
    t.equal(getEventListeners(shuttingDown.signal, 'abort').length, 0)
  }
)
