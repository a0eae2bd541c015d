import assert from 'node:assert/strict'
import fc from 'fast-check'
import { test } from 'tap'
import { jitter, jitterRetry, refusedRetryMs, retryBlock, retryLine } from '../src/retry.ts'

test('a delay is an integer within half of itself, and never more than a client can wait', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2_147_483_647 }), (retryMs) => {
      const jittered = jitterRetry(retryMs)
      assert.ok(Number.isInteger(jittered))
      assert.ok(jittered >= Math.floor(retryMs * 0.5) && jittered <= Math.min(2_147_483_647, Math.ceil(retryMs * 1.5)))
    })
  )
})

test('delays differ from connection to connection', async (t) => {
  const delays = new Set(Array.from({ length: 100 }, () => jitterRetry(1_000_000)))
  t.ok(delays.size > 50)
})

test('what is infinite stays so', async (t) => {
  t.equal(jitter(Infinity, 0.2), Infinity)
})

test('a delay of 0 is sent as 0', async (t) => {
  t.equal(retryLine(0), 'retry: 0\n')
})

test('without a delay no line is sent, but a block is', async (t) => {
  t.equal(retryLine(false), '')
  t.equal(retryBlock(false), ':\n\n')
  t.match(retryBlock(1_000), /^retry: \d+\n\n$/)
})

test('whoever is refused stays away five times as long, and at least until the floor', async () => {
  fc.assert(
    fc.property(fc.nat({ max: 2_147_483_647 }), fc.nat({ max: 100_000 }), (retryMs, floorMs) => {
      const delay = refusedRetryMs(retryMs, floorMs)
      assert.ok(Number.isInteger(delay) && delay <= 2_147_483_647)
      assert.ok(delay >= floorMs)
      assert.ok(delay >= Math.min(2_147_483_647, Math.floor(retryMs * 2.5)))
    })
  )
})
