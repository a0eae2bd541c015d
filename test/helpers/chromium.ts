import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'
import type { Test } from 'tap'

const places = [
  process.env['CHROMIUM_PATH'],
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
]

/**
 * Launches the Chromium of this machine (`CHROMIUM_PATH` wins) for one test. Without one the test is skipped, with a
 * comment that says so; but in CI, where nobody reads comments, it fails.
 */
export async function launchChromium(t: Test): Promise<Browser | undefined> {
  const executablePath = places.find((path) => path !== undefined && existsSync(path))
  if (executablePath === undefined) {
    const message = 'no Chromium found: install one, or set CHROMIUM_PATH'
    if (process.env['CI'] === 'true') t.fail(message)
    else t.comment(`SKIPPED: ${message}`)
    return undefined
  }
  const browser = await chromium.launch({
    executablePath,
    // No GPU, no QUIC, and nothing that would contact another host than the one under test.
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync'
    ]
  })
  t.teardown(() => browser.close())
  return browser
}
