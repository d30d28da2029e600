// A page that stays logged in: copy it, and put your own things in the place of "a protected route".
import { createSession } from 'latchkey/browser'

const baseUrl = document.querySelector('meta[name=latchkey]').content
const session = createSession({ baseUrl })

const find = (selector) => document.querySelector(selector)
const say = (text) => {
  find('#notice').textContent = text
}

/** What people are told, by the code of what went wrong. The service's own words will do for the rest. */
const words = {
  invalid_credentials: 'Nobody has this username and this password.',
  username_taken: 'Somebody has this username already.',
  offline: 'There is no connection. Nothing is lost: try again.',
  unavailable: 'This is not available right now: try again in a moment.',
  rate_limited: 'That was too often: wait a little.',
}

/** Runs what a button does. Whatever goes wrong is said, and who is logged in stays so. */
async function act(button, work) {
  const before = session.user
  button.disabled = true
  say('')
  try {
    await work()
  } catch (error) {
    // That it was the end is said by onChange.
    if (session.user || !before) say(words[error.code] ?? error.message)
  } finally {
    button.disabled = false
  }
}

find('#entrance form').addEventListener('submit', (event) => {
  event.preventDefault()
  const { submitter, target } = event
  void act(submitter, async () => {
    const { username, password, remember } = Object.fromEntries(new FormData(target))
    if (submitter.value === 'up') await signUp({ username, password })
    await session.login({ username, password, remember: remember === 'on' })
    target.reset()
  })
})

async function signUp(account) {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(`${baseUrl}/register`, {
    method: 'POST',
    headers,
    body: JSON.stringify(account),
  })
  if (response.ok) return
  const { code, detail } = await response.json()
  throw Object.assign(new Error(detail), { code })
}

const on = (selector, work) =>
  find(selector).addEventListener('click', ({ currentTarget }) => act(currentTarget, work))

on('#log-out', () => session.logout())
on('#log-out-everywhere', () => session.logout({ scope: 'all' }))
on('#ask', async () => {
  const { sub, exp } = await ask('/protected')
  find('#answer').textContent = `It knows you as ${sub.slice(0, 8)}…, until ${clock(exp * 1000)}.`
})

async function ask(path, init) {
  const response = await session.fetch(baseUrl + path, init)
  const body = response.status === 204 ? undefined : await response.json()
  if (!response.ok) throw Object.assign(new Error(body.detail), { code: body.code })
  return body
}

const clock = (moment) => new Date(moment).toLocaleTimeString()
const calendar = (moment) =>
  new Date(moment).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' })

async function showHome() {
  const [{ username }, { sessions }] = await Promise.all([ask('/me'), ask('/sessions')])
  find('#name').textContent = username
  const current = sessions.find((one) => one.current)
  for (const [selector, moment] of [
    ['#idle-ends', current.idle_expires_at],
    ['#session-ends', current.expires_at],
  ]) {
    find(selector).dateTime = moment
    find(selector).textContent = calendar(moment)
  }
  find('#sessions').replaceChildren(...sessions.map(showSession))
}

function showSession({ id, device, address, last_used_at, current }) {
  const item = find('template').content.cloneNode(true)
  item.querySelector('.device').textContent = device
  item.querySelector('.address').textContent = address
  item.querySelector('.badge').hidden = !current
  const used = item.querySelector('.used')
  used.dateTime = last_used_at
  used.textContent = calendar(last_used_at)
  const button = item.querySelector('button')
  button.setAttribute('aria-label', `End the session of ${device}, last used ${used.textContent}`)
  button.addEventListener('click', () =>
    act(button, async () => {
      if (current) return session.logout()
      await ask(`/sessions/${id}`, { method: 'DELETE' })
      await showHome()
    }),
  )
  return item
}

/** Which of the two there is, and where the keyboard goes. */
function show(user) {
  find('#entrance').hidden = Boolean(user)
  find('#home').hidden = find('#log-out').hidden = !user
  find('#answer').textContent = ''
  find('main').ariaBusy = 'false'
  find(user ? '#home h2' : '#entrance h2').focus()
  if (user) void act(find('#ask'), showHome)
}

const farewells = {
  logged_out: 'You are logged out, in every tab.',
  ended: 'Your session has ended: sign in again.',
}

session.onChange(({ user, reason }) => {
  show(user)
  if (!user) say(farewells[reason])
})

setInterval(() => {
  const left = session.expiresAt - Date.now()
  find('#token-ends').textContent =
    left > 0
      ? `in ${Math.ceil(left / 1000)} s; the next request renews it`
      : 'has ended; the next request renews it'
}, 1000)

try {
  if (!(await session.ready)) show(undefined)
} catch (error) {
  show(undefined)
  say(words[error.code] ?? error.message)
}
