import type { FastifyBaseLogger } from 'fastify'
import { test } from 'tap'
import { logSafely } from '../src/log-safely.ts'
import { createRecordingLog } from './helpers/recording-log.ts'

test('an error is logged with its fields', async (t) => {
  const { log, lines } = createRecordingLog()
  const error = new Error('mine')
  logSafely(log, 'warn', { streamId: 'a' }, 'the message', error)
  t.strictSame(lines, [{ level: 'warn', fields: { streamId: 'a', err: error }, message: 'the message' }])
})

test('a line without an error has none', async (t) => {
  const { log, lines } = createRecordingLog()
  logSafely(log, 'info', { streamId: 'a' }, 'the message')
  t.strictSame(lines, [{ level: 'info', fields: { streamId: 'a' }, message: 'the message' }])
})

test('an error that cannot be logged is left out', async (t) => {
  const { log, lines } = createRecordingLog()
  const picky = {
    error(fields: { err?: unknown }, message: string) {
      if ('err' in fields) throw new Error('a serializer that reads a hostile getter')
      log.error(fields, message)
    }
  } as FastifyBaseLogger
  logSafely(picky, 'error', { streamId: 'a' }, 'stream failed', {})
  t.match(lines, [{ fields: { streamId: 'a' }, message: /^stream failed; .*cannot be logged/ }])
})

test('a logger that always throws takes nothing along', async (t) => {
  const broken = {
    error() {
      throw new Error('broken')
    }
  } as unknown as FastifyBaseLogger
  t.doesNotThrow(() => logSafely(broken, 'error', {}, 'with an error', new Error('mine')))
  t.doesNotThrow(() => logSafely(broken, 'error', {}, 'without'))
})
