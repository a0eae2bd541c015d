/**
 * Reads one stream with nothing but an EventSource, and shows what becomes of it. Both demo pages use it; they have the
 * elements that it fills.
 */

export const $ = (id) => document.getElementById(id)

export const words = (count) => (count === 1 ? '1 word' : `${count} words`)

/** Tells the connections of two tabs apart, so that a tab drops only its own. */
export const tab = Math.random().toString(36).slice(2)

export function log(text, { warn = false } = {}) {
  const item = document.createElement('li')
  const time = document.createElement('time')
  time.textContent = new Date().toTimeString().slice(0, 8)
  const line = document.createElement('span')
  line.textContent = text
  line.classList.toggle('warn', warn)
  item.append(time, line)
  $('log').append(item)
  $('log').scrollTop = $('log').scrollHeight
}

// Not the `disabled` attribute: it would take the focus away from a keyboard that has just pressed the button.
export function enable(id, isEnabled) {
  $(id).setAttribute('aria-disabled', String(!isEnabled))
}

export function onPress(id, action) {
  $(id).addEventListener('click', () => $(id).getAttribute('aria-disabled') === 'true' || action())
}

/** Shows rows of cells; the first one of each is a name. Cells from `numbersFrom` on stand to the right. */
export function fillTable(id, rows, { numbersFrom, columns }) {
  const filled = rows.map(({ cells, isMine }) => {
    const tr = document.createElement('tr')
    tr.classList.toggle('mine', isMine)
    cells.forEach((cell, index) => {
      const td = document.createElement('td')
      if (index === 0) td.append(Object.assign(document.createElement('code'), { textContent: cell }))
      else td.textContent = cell
      td.classList.toggle('n', index >= numbersFrom)
      tr.append(td)
    })
    return tr
  })
  if (filled.length === 0) {
    const tr = document.createElement('tr')
    tr.append(Object.assign(document.createElement('td'), { colSpan: columns, textContent: 'No streams.' }))
    filled.push(tr)
  }
  $(id).replaceChildren(...filled)
}

export const newName = () => `text-${Math.random().toString(36).slice(2, 8)}`

export class Reader {
  /** The name of the stream, or null. */
  stream = new URLSearchParams(location.search).get('stream')
  received = 0
  #ask
  #goesOn
  #source
  #total = 0
  #produced = 0
  #connections = 0
  #outOfOrder = 0
  /**
   * The last word received before the current connection opened; null once the words that waited have been counted.
   *
   * @type {number | null}
   */
  #openedAfter = null
  // The last word that had waited; those up to it are tinted, also the ones that are still on their way.
  #missedUpTo = 0
  // Who answered the current connection, where the page knows.
  #servedBy
  #isUnknown = false

  /**
   * `ask` tells what the server knows: `{ words, written, servedBy }`, of which `written` is undefined where it does not
   * know this stream. `goesOn` is said with every lost connection.
   */
  constructor({ ask, goesOn }) {
    this.#ask = ask
    this.#goesOn = goesOn
  }

  /** Reads the stream of the address, if it is still there, and asks for news from now on. */
  async open() {
    setInterval(() => document.hidden || this.refresh(), 500)
    const name = this.stream
    const isKnown = await this.refresh()
    // Nothing to open, or Start was pressed before the answer came.
    if (name === null || name !== this.stream) return
    if (isKnown) return this.start(name)
    log(`Stream ${name} is not on the server any more. Start a new one.`, { warn: true })
    this.stream = null
    this.#show('idle', 'Not started')
  }

  start(name) {
    this.stream = name
    this.#produced = this.received = this.#connections = this.#outOfOrder = this.#missedUpTo = 0
    this.#openedAfter = null
    $('text').replaceChildren()
    $('log').replaceChildren()
    this.#measure()
    history.replaceState(null, '', `?stream=${name}`)
    this.#connect()
  }

  /** Presses a button of the server. */
  async post(action) {
    try {
      return (await fetch(`/streams/${this.stream}/${action}?tab=${tab}`, { method: 'POST' })).ok
    } catch {
      log('The server does not answer.', { warn: true })
      return false
    }
  }

  /** Asks the server for news. Returns whether it knows the stream. */
  async refresh() {
    const asked = this.#connections
    let news
    try {
      news = await this.#ask(this.stream)
    } catch {
      $('stats').textContent = 'The server does not answer.'
      if ($('state').dataset.state === 'lost') $('state').textContent = 'The server does not answer, trying again'
      return false
    }
    this.#total = news.words
    if (news.written === undefined) return false
    this.#produced = Math.max(news.written, this.received)
    this.#measure()
    this.#showWaiting()
    if (asked === this.#connections) {
      this.#servedBy = news.servedBy
      this.#tellConnected()
    }
    return true
  }

  #connect() {
    const source = new EventSource(`/streams/${this.stream}?tab=${tab}`)
    this.#source = source
    this.#isUnknown = false
    this.#show('connecting', 'Connecting')

    source.addEventListener('open', () => this.#onOpen())
    source.addEventListener('error', () => this.#onLost(source.readyState === EventSource.CLOSED))
    source.addEventListener('word', (event) => this.#onWord(event))
    source.addEventListener('stream-gap', (event) => this.#onGap(JSON.parse(event.data)))
    source.addEventListener('stream-error', (event) => this.#onFailed(JSON.parse(event.data)))
    source.addEventListener('stream-end', (event) => this.#onEnd(JSON.parse(event.data)))
  }

  #onOpen() {
    this.#connections++
    this.#openedAfter = this.received
    this.#servedBy = undefined
    this.#show('live', 'Connected')
    void this.refresh()
  }

  #onLost(isFinal) {
    if (isFinal) {
      this.#show('idle', 'Closed')
      return log('The server refused this stream.', { warn: true })
    }
    if ($('state').dataset.state === 'lost') return
    this.#tellConnected()
    this.#show('lost', 'Connection lost, coming back')
    log(`Connection lost after word ${this.received}. ${this.#goesOn}`, { warn: true })
  }

  #onWord({ data, lastEventId }) {
    // An id is `<epoch>.<sequence>`; the sequence counts the events of this stream from 1.
    const sequence = Number(lastEventId.split('.')[1])
    if (sequence !== this.received + 1) this.#outOfOrder++
    this.received = sequence
    const word = document.createElement('span')
    word.textContent = data
    word.classList.toggle('missed', sequence <= this.#missedUpTo)
    append(word)
    this.#produced = Math.max(this.#produced, this.received)
    this.#measure()
  }

  #onGap({ reason, missed }) {
    if (reason === 'trimmed') return log(`${words(missed)} are not on the server any more.`, { warn: true })
    this.#openedAfter = null
    if (reason === 'lost') {
      this.#isUnknown = true
      return log('The server does not know this stream any more.', { warn: true })
    }
    // Another run under the same name, which a restarted server may have: it begins at word 1.
    log('The server has started over.', { warn: true })
    this.received = this.#outOfOrder = this.#missedUpTo = 0
    $('text').replaceChildren()
  }

  #onFailed({ code }) {
    if (code !== 'STREAM_LOST') return
    this.#tellConnected()
    const why = 'The instance that produced the text is gone, and no other can go on in its place.'
    log(`${why} The server says so: ${code}.`, { warn: true })
  }

  #onEnd({ outcome }) {
    // The stream is over and this tab has all of it: without this line the browser would ask once more, and get a 204.
    this.#source.close()
    this.#tellConnected()
    if (this.#isUnknown) {
      this.#show('idle', 'This stream is gone')
      $('second').hidden = true
      return
    }
    const over = { completed: 'Complete', aborted: 'Stopped', lost: 'Lost' }[outcome] ?? `Ended: ${outcome}`
    this.#show('idle', over)
    const proof = this.#outOfOrder === 0 ? 'none missing, none twice' : `${this.#outOfOrder} out of order`
    const connections = `${this.#connections} ${this.#connections === 1 ? 'connection' : 'connections'}`
    if (outcome === 'lost') log(`Lost after word ${this.received}, over ${connections}. Up to there ${proof}.`)
    else log(`${over}: ${words(this.received)} over ${connections}, ${proof}.`)
    void this.refresh()
  }

  /** Tells, once per connection, how it began, and tints the words that had been written before it opened. */
  #tellConnected() {
    if (this.#openedAfter === null) return
    const after = this.#openedAfter
    const missed = this.#produced - after
    const by = this.#servedBy === undefined ? '' : ` to ${this.#servedBy}`
    this.#openedAfter = null
    // A tab that opened with the stream has missed nothing; the words that come first simply come first.
    if (after === 0 && missed <= 1) return log(`Connected${by}.`)
    this.#missedUpTo = this.#produced
    for (const word of [...$('text').children].slice(after, this.#produced)) word.classList.add('missed')
    if (after === 0) return log(`Connected${by}. The server had ${words(missed)} by then and sent all of them.`)
    const sent = missed === 0 ? 'no word had been missed' : `the server sent the ${words(missed)} that had waited`
    log(`Connected again${by}. The browser said “I have word ${after}”; ${sent}.`)
  }

  #show(state, text) {
    $('state').dataset.state = state
    $('state').textContent = text
    $('progress').classList.toggle('lost', state === 'lost')
    enable('drop', state === 'live')
    enable('stop', state !== 'idle')
    enable('start', state === 'idle')
    $('start').textContent = this.stream ? 'Start again' : 'Start'
    $('second').hidden = !this.stream
    $('second').href = `?stream=${this.stream}`
    this.#showWaiting()
  }

  /** Says at the end of the text why no words come, and how many wait on the server meanwhile. */
  #showWaiting() {
    const isLost = $('state').dataset.state === 'lost'
    const missing = this.#produced - this.received
    const waiting = missing > 0 ? ` · ${words(missing)} waiting on the server` : ''
    if (isLost) $('text').dataset.away = `Connection lost${waiting}`
    else delete $('text').dataset.away
  }

  #measure() {
    for (const [id, count] of [
      ['produced', this.#produced],
      ['received', this.received]
    ]) {
      $(id).textContent = this.#total ? `${count} / ${this.#total}` : count
      $(`${id}-bar`).style.width = this.#total ? `${(count / this.#total) * 100}%` : '0'
    }
  }
}

/** Keeps the newest word on the screen, unless you have scrolled away from it. */
function append(word) {
  const end = () => ($('text').lastElementChild ?? $('text')).getBoundingClientRect()
  const wasInView = end().top < innerHeight
  $('text').append(word)
  const below = end().bottom + 64 - innerHeight
  if (wasInView && below > 0) scrollBy(0, below)
}
