import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { build, text } from '../../examples/demo/server.ts'
import { launchChromium } from '../helpers/chromium.ts'
import { waitForLog, waitForWords } from '../helpers/demo-page.ts'
import { eventually } from '../helpers/eventually.ts'
import { runScript } from '../helpers/script.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { takenPort } from '../helpers/taken-port.ts'

const words = text.match(/\S+\s*/g) ?? []
const demo = fileURLToPath(new URL('../../examples/demo/server.ts', import.meta.url))

t.test('the page in a browser', async (t) => {
  const browser = await launchChromium(t)
  if (!browser) return

  await t.test('a text that is dropped three times arrives exactly once, from one run', async (t) => {
    const { gate, fastify, requests, page } = await openDemo(t, browser)
    await page.click('#start')
    gate.release(40)
    await waitForWords(page, 40)

    for (const received of [40, 140, 240]) {
      await page.click('#drop')
      await waitForLog(page, `Connection lost after word ${received}.`)
      gate.release(100) // while the page is away, or while it comes back: it must not matter
      await waitForWords(page, received + 100)
      await waitForLog(page, `Connected again. The browser said “I have word ${received}”;`)
    }
    gate.release(words.length)
    await waitForLog(page, `Complete: ${words.length} words over 4 connections, none missing, none twice.`)

    t.equal(await page.textContent('#text'), text)
    t.equal(fastify.sseStreams.stats().started, 1, 'one run')
    t.equal(fastify.sseStreams.stats().resumed, 3)
    t.equal(requests.filter((url) => url.startsWith('/streams/') && url.includes('?tab=')).length, 4 + 3, '3 are drops')
    t.equal(await page.textContent('#state'), 'Complete')
  })

  await t.test('an ended stream is not asked for again', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser)
    // Keeps the page's EventSource where the test can look at it.
    await page.evaluate(
      `EventSource = class extends EventSource { constructor(url) { super(url); globalThis.kept = this } }`
    )
    await page.click('#start')
    gate.release(words.length)
    await waitForLog(page, 'Complete:')
    // CLOSED is final: an EventSource in this state has no timer left to reconnect.
    t.equal(await page.evaluate('kept.readyState'), 2)
    t.equal(fastify.sseStreams.stats().attached, 1)
  })

  await t.test('an EventSource that does not know of stream-end is closed by the 204', async (t) => {
    const { gate, requests, page } = await openDemo(t, browser)
    gate.release(words.length)
    const received = await page.evaluate(`new Promise((resolve) => {
      const source = new EventSource('/streams/plain')
      let text = ''
      source.addEventListener('word', (event) => (text += event.data))
      source.onerror = () => source.readyState === EventSource.CLOSED && resolve(text)
    })`)
    t.equal(received, text)
    t.equal(requests.filter((url) => url === '/streams/plain').length, 2, 'the stream, then the 204')
  })

  await t.test('a second tab reads the same run from its first word, and is not dropped with the first', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser)
    await page.click('#start')
    gate.release(50)
    await waitForWords(page, 50)
    const opened = page.context().waitForEvent('page')
    await page.click('#second')
    const second = await opened
    await waitForWords(second, 50)
    t.equal(await second.textContent('#text'), words.slice(0, 50).join(''))
    await waitForLog(second, 'Connected. The server had 50 words by then and sent all of them.')

    await page.click('#drop')
    await waitForLog(page, 'Connection lost')
    gate.release(words.length)
    await Promise.all([waitForLog(page, 'Complete:'), waitForLog(second, 'Complete:')])
    t.equal(await page.textContent('#text'), text)
    t.equal(await second.textContent('#text'), text)
    t.notOk(await logOf(second, 'Connection lost'))
    t.equal(fastify.sseStreams.stats().started, 1)
  })

  await t.test('without a connection the text ends with how many words wait on the server', async (t) => {
    const { gate, page } = await openDemo(t, browser, { retry: 60_000 })
    await page.click('#start')
    gate.release(20)
    await waitForWords(page, 20)
    await page.click('#drop')
    await waitForLog(page, 'Connection lost after word 20.')
    gate.release(7)
    await page.waitForFunction(
      `document.querySelector('#text').dataset.away === 'Connection lost · 7 words waiting on the server'`
    )
    t.equal(await page.textContent('#text'), words.slice(0, 20).join(''), 'and is not a part of it')
    t.equal(await page.getAttribute('#drop', 'aria-disabled'), 'true')
    t.equal(await page.getAttribute('#stop', 'aria-disabled'), 'false')
  })

  await t.test('the words that were missed are the tinted ones', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser, { retry: 2_000 })
    await page.click('#start')
    // Words that are there when the page first learns what the server has count as missed.
    await waitForLog(page, 'Connected.')
    gate.release(20)
    await waitForWords(page, 20)
    await page.click('#drop')
    await eventually('the server has seen it go', () => fastify.sseStreams.stats().clients === 0)
    gate.release(7)
    await eventually('the server has written 7 more words', () => fastify.sseStreams.list()[0]?.lastSequence === 27)
    await waitForLog(
      page,
      'Connected again. The browser said “I have word 20”; the server sent the 7 words that had waited.'
    )
    gate.release(3)
    await waitForWords(page, 30)
    const tinted = `[...document.querySelectorAll('#text .missed')].map((word) => word.textContent).join('')`
    t.equal(await page.evaluate(tinted), words.slice(20, 27).join(''))
  })

  await t.test('a server that was restarted does not know the stream: the page says so and stops', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser)
    await page.click('#start')
    gate.release(20)
    await waitForWords(page, 20)
    const { port } = fastify.server.address() as AddressInfo
    await fastify.close()
    await waitForLog(page, 'Connection lost after word 20.')

    const restarted = await build({ pause: (signal) => gate.pass(signal), retry: 50 })
    t.teardown(() => restarted.close())
    await restarted.listen({ host: '127.0.0.1', port })
    await waitForLog(page, 'The server does not know this stream any more.')
    await page.waitForFunction(`document.querySelector('#state').textContent === 'This stream is gone'`)
    t.equal(restarted.sseStreams.stats().started, 0)
    t.equal(await page.textContent('#text'), words.slice(0, 20).join(''), 'what it had stays')
  })

  await t.test('a reload reads the stream of the address again', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser)
    await page.click('#start')
    gate.release(30)
    await waitForWords(page, 30)
    await page.reload()
    await waitForWords(page, 30)
    t.equal(await page.textContent('#text'), words.slice(0, 30).join(''))
    t.equal(fastify.sseStreams.stats().started, 1)
  })

  await t.test('stop aborts the run and ends the page', async (t) => {
    const { gate, fastify, page } = await openDemo(t, browser)
    await page.click('#start')
    gate.release(25)
    await waitForWords(page, 25)
    await page.click('#stop')
    await waitForLog(page, 'Stopped: 25 words over 1 connection, none missing, none twice.')
    const [stream] = fastify.sseStreams.list()
    t.match(stream, { state: 'finished', outcome: 'aborted' })
    t.equal(await page.getAttribute('#start', 'aria-disabled'), 'false')
    await page.waitForFunction(`document.querySelector('#streams').textContent.includes('aborted')`)
  })

  await t.test('a start before the page knows the server is a start', async (t) => {
    const { gate, page } = await openDemo(t, browser)
    const asked = new StepGate()
    await page.route('**/registry', async (route) => {
      await asked.pass(AbortSignal.timeout(60_000))
      await route.continue()
    })
    await page.reload()
    await page.click('#start')
    gate.release(5)
    await waitForWords(page, 5)
    asked.release(1_000)
    await waitForLog(page, 'Connected.')
    t.notOk(await logOf(page, 'not on the server any more'))
    t.equal(await page.textContent('#start'), 'Start again')
  })

  await t.test('an address of a stream that is gone says so and starts nothing', async (t) => {
    const { fastify, page } = await openDemo(t, browser, { path: '/?stream=gone' })
    await waitForLog(page, 'Stream gone is not on the server any more.')
    t.equal(fastify.sseStreams.stats().started, 0)
  })
})

t.test('a port that is taken is named, with the way to choose another', async (t) => {
  const port = await takenPort(t)
  const { code, errors } = await runScript(t, demo, String(port)).exited
  t.equal(code, 1)
  t.match(errors, `Port ${port} on 127.0.0.1 is already in use. Choose another one, for example: PORT=`)
  t.notMatch(errors, /\n\s+at /, 'no stack')
})

t.test('a PORT that is no port is named, with what is allowed', async (t) => {
  for (const port of ['abc', '65536']) {
    const { code, errors } = await runScript(t, demo, port).exited
    t.equal(code, 1)
    t.match(errors, `PORT must be a whole number from 0 to 65535, not "${port}".`)
  }
})

t.test('the demo prints its address, serves the page and leaves on SIGTERM', async (t) => {
  const { child, firstLine, exited } = runScript(t, demo, '0')
  const address = /http:\/\/127\.0\.0\.1:\d+/.exec(await firstLine)?.[0]
  t.ok(address)
  const response = await fetch(`${address}/`)
  t.equal(response.status, 200)
  t.match(await response.text(), '<h1>A stream that outlives its connection</h1>')
  child.kill('SIGTERM')
  t.same(await exited, { code: 0, errors: '' })
})

t.test('a SIGTERM to npm, whose shell does not pass it on, ends the demo too', async (t) => {
  const npm = spawn('npm', ['run', 'demo'], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => npm.kill('SIGKILL'))
  const lines = createInterface({ input: npm.stdout })
  while (!String(await once(lines, 'line')).startsWith('The demo is at'));
  npm.kill('SIGTERM')
  // `close` comes when nobody holds the pipe any more: npm, its shell and the server are gone.
  await once(npm, 'close')
})

interface OpenDemo {
  readonly gate: StepGate
  readonly fastify: FastifyInstance
  readonly requests: string[]
  readonly page: Page
}

async function openDemo(t: Test, browser: Browser, { path = '/', retry = 50 } = {}): Promise<OpenDemo> {
  const gate = new StepGate()
  const fastify = await build({ pause: (signal) => gate.pass(signal), retry })
  t.teardown(() => fastify.close())
  const requests: string[] = []
  fastify.addHook('onRequest', async (request) => void requests.push(request.url))
  const address = await fastify.listen({ host: '127.0.0.1', port: 0 })
  const context = await browser.newContext()
  t.teardown(() => context.close())
  const page = await context.newPage()
  page.on('pageerror', (error) => t.fail(error))
  await page.goto(address + path)
  return { gate, fastify, requests, page }
}

async function logOf(page: Page, line: string): Promise<boolean> {
  return (await page.textContent('#log'))?.includes(line) ?? false
}
