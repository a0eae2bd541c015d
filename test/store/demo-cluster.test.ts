import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { Cluster } from '../../examples/cluster/server.ts'
import { text, words } from '../../examples/demo/text.ts'
import { launchChromium } from '../helpers/chromium.ts'
import { waitForLog, waitForWords } from '../helpers/demo-page.ts'
import { hasRedis } from '../helpers/redis-server.ts'
import { StepGate } from '../helpers/step-gate.ts'

const gatedInstance = new URL('../fixtures/gated-instance.ts', import.meta.url)

t.test('the page in a browser', async (t) => {
  if (!hasRedis(t)) return
  const browser = await launchChromium(t)
  if (!browser) return
  const cluster = await openCluster(t)

  await t.test('the serving instance is killed: the text comes through the other one, each word once', async (t) => {
    const { gate, page, producer, server } = await openStream(t, browser, cluster, 40)
    await page.click('#kill-serving')
    await waitForLog(page, `You killed instance ${server}, which serves this tab.`)
    await waitForLog(page, 'Connection lost after word 40.')
    gate.release(100) // while the page is away, or while it comes back: it must not matter
    await waitForWords(page, 140)
    await waitForLog(page, `Connected again to instance ${producer}. The browser said “I have word 40”;`)

    await waitForLog(page, `Instance ${server} runs again, as a new process.`)
    await page.click('#drop')
    await waitForLog(page, `Connected again to instance ${server}. The browser said “I have word 140”;`)
    gate.release(100)
    await waitForWords(page, 240)
    await waitForRoles(page, { [producer]: 'produces the text', [server]: 'serves this tab' })
    await page.click('#kill-serving')
    await waitForLog(page, `Connected again to instance ${producer}. The browser said “I have word 240”;`)
    gate.release(words.length)
    await waitForLog(page, `Complete: ${words.length} words over 4 connections, none missing, none twice.`)

    t.equal(await page.textContent('#text'), text)
    t.equal(await page.textContent('#state'), 'Complete')
    t.equal(gate.taken, words.length, 'one run')
  })

  await t.test('the producing instance is killed: the page is told, and keeps what it has', async (t) => {
    const { gate, page, producer } = await openStream(t, browser, cluster, 40)
    await page.click('#kill-producing')
    await waitForLog(page, `You killed instance ${producer}, which produces the text.`)
    await waitForLog(page, 'The server says so: STREAM_LOST.')
    await waitForLog(page, 'Lost after word 40, over 1 connection. Up to there none missing, none twice.')
    t.equal(await page.textContent('#text'), words.slice(0, 40).join(''))
    t.equal(await page.textContent('#state'), 'Lost')
    await waitForLog(page, `Instance ${producer} runs again, as a new process.`)
    t.equal(gate.taken, 40, 'nobody went on')

    await page.click('#start')
    gate.release(words.length)
    await waitForLog(page, `Complete: ${words.length} words over 1 connection, none missing, none twice.`)
    t.equal(await page.textContent('#text'), text)
  })

  await t.test('the one that does both is killed: the other one has its words, and says that it is gone', async (t) => {
    const { page, producer, server } = await openStream(t, browser, cluster, 40)
    await page.click('#drop')
    await waitForRoles(page, { [producer]: 'produces the text, serves this tab', [server]: '' })
    t.match(await page.textContent('#hint'), `Instance ${producer} does both now: a kill ends the text.`)
    await page.click('#kill-serving')
    await waitForLog(page, `You killed instance ${producer}, which produces the text and serves this tab.`)
    await waitForLog(page, `Connected again to instance ${server}. The browser said “I have word 40”;`)
    await waitForLog(page, 'Lost after word 40, over 3 connections. Up to there none missing, none twice.')
    t.equal(await page.textContent('#text'), words.slice(0, 40).join(''))
  })

  await t.test(
    'both are killed: the page waits, and the first that is back says what became of the text',
    async (t) => {
      const { page } = await openStream(t, browser, cluster, 40)
      await page.click('#kill-serving')
      await page.waitForSelector('#kill-producing[aria-disabled=false]')
      await page.click('#kill-producing')
      await waitForLog(page, 'The server says so: STREAM_LOST.')
      await waitForLog(page, 'Up to there none missing, none twice.')
      t.equal(await page.textContent('#text'), words.slice(0, 40).join(''))
    }
  )

  await t.test('stop reaches the producer through the other instance', async (t) => {
    const { page, producer } = await openStream(t, browser, cluster, 25)
    await page.click('#drop')
    await waitForLog(page, `Connected again to instance ${producer}.`)
    await page.click('#stop') // it is the turn of the other one
    await waitForLog(page, 'Stopped: 25 words over 2 connections, none missing, none twice.')
    await page.waitForFunction(`document.querySelector('#streams').textContent.includes('aborted')`)
  })

  await t.test('a reload reads the stream from its first word, through the other instance', async (t) => {
    const { gate, page, producer, server } = await openStream(t, browser, cluster, 30)
    await page.reload()
    await waitForWords(page, 30)
    await waitForRoles(page, { [producer]: 'produces the text, serves this tab', [server]: '' })
    t.equal(await page.textContent('#text'), words.slice(0, 30).join(''))
    t.equal(gate.taken, 30)
  })
})

interface OpenCluster {
  readonly address: string
  /** Who lets words pass; each stream of a test has its own. */
  gate: StepGate
}

async function openCluster(t: Test): Promise<OpenCluster> {
  const opened = { address: '', gate: new StepGate() }
  const gate = createServer((_request, response) => {
    const left = new AbortController()
    response.once('close', () => left.abort())
    opened.gate.pass(left.signal).then(
      () => response.end(),
      () => {}
    )
  })
  t.teardown(() => {
    gate.close()
    gate.closeAllConnections()
  })
  await once(gate.listen(0, '127.0.0.1'), 'listening')
  const { port } = gate.address() as AddressInfo
  const cluster = new Cluster({
    file: gatedInstance,
    args: [`http://127.0.0.1:${port}`],
    retry: 50,
    restartMs: 1_000
  })
  t.teardown(() => cluster.close())
  opened.address = await cluster.listen('127.0.0.1', 0)
  return opened
}

interface OpenStream {
  readonly gate: StepGate
  readonly page: Page
  readonly producer: string
  readonly server: string
}

/** A page that has read `count` words. Of its two requests one went to each instance: one produces, the other serves. */
async function openStream(t: Test, browser: Browser, cluster: OpenCluster, count: number): Promise<OpenStream> {
  const gate = new StepGate()
  cluster.gate = gate
  const context = await browser.newContext()
  t.teardown(() => context.close())
  const page = await context.newPage()
  page.setDefaultTimeout(60_000)
  page.on('pageerror', (error) => t.fail(error))
  await page.goto(cluster.address)
  await page.waitForFunction(`document.querySelectorAll('.card[data-state=up]').length === 2`)
  await page.click('#start')
  await waitForLog(page, 'Connected to instance')
  gate.release(count)
  await waitForWords(page, count)
  await page.waitForFunction(`document.querySelectorAll('.roles li').length === 2`)
  const [server, producer] = (await page.textContent('#log'))?.includes('Connected to instance A')
    ? ['A', 'B']
    : ['B', 'A']
  await waitForRoles(page, { [producer]: 'produces the text', [server]: 'serves this tab' })
  return { gate, page, producer, server }
}

async function waitForRoles(page: Page, roles: Record<string, string>): Promise<void> {
  const shown = Object.entries(roles).map(([name, those]) => `Instance ${name}: ${those}`)
  const read = `[...document.querySelectorAll('.card')].map((card) => card.querySelector('h3').textContent + ': ' +
    [...card.querySelectorAll('.roles li')].map((role) => role.textContent).join(', ')).join('; ')`
  await page.waitForFunction(`${read} === ${JSON.stringify(shown.toSorted().join('; '))}`)
}
